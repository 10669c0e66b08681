"""Further negatives of the queries of a batch, from its memory or mined, each known by its own keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from make_jax.objectives.contrastive import Past

NONE = -1  # the key of what is not there, and of no query


class Further(NamedTuple):
    """Products that are negatives of every query but those that want them, in C places of S.

    vectors float[C, S, E], unit length; product_key int32[C, S], -1 where there is none; query_key int32[C, S], of the
    query that each came with, -1 for no query; product_queries int32[C, S, M], query keys under which each was clicked,
    padded with -1; log_count float[C, S], what is taken off their logits. On a mesh C is split as a batch is.
    """

    vectors: jax.Array
    product_key: jax.Array
    query_key: jax.Array
    product_queries: jax.Array
    log_count: jax.Array


def past_of(further: Sequence[Further], query_key: jax.Array, product_key: jax.Array) -> Past:
    """What some pairs' queries may take as negatives: never the same product, nor one wanted under an equal query.

    Args:
      further: one sort or several.
      query_key, product_key: int32[R], of the pairs.
    """
    parts = [_one_slot(found, _left_out(found, query_key, product_key)) for found in further]
    vectors, excluded, log_count = zip(*parts, strict=True)
    return Past(jnp.concatenate(vectors, axis=1), jnp.concatenate(excluded, axis=2), jnp.concatenate(log_count, axis=1))


def _left_out(further: Further, query_key: jax.Array, product_key: jax.Array) -> jax.Array:
    query, product = query_key[:, None, None], product_key[:, None, None]
    clicked = jnp.any(query[..., None] == further.product_queries[None], axis=-1)
    wanted = clicked | (query == further.query_key) | (product == further.product_key)
    return wanted | (further.product_key == NONE)


def _one_slot(further: Further, excluded: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    vectors = further.vectors.astype(jnp.float32)
    return (
        vectors.reshape(1, -1, vectors.shape[-1]),
        excluded.reshape(len(excluded), 1, -1),
        further.log_count.reshape(1, -1),
    )
