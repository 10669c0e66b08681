"""Mined hard negatives as further columns of a contrast.

Qu et al. 2021, "RocketQA" (arXiv 2010.08191); Xiong et al. 2021, "ANCE" (arXiv 2007.00808).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from make_jax.objectives.contrastive import Past

NONE = -1  # the key where a pair has no negative


def hard_negatives(
    vectors: jax.Array,
    present: jax.Array,
    negative_key: jax.Array,
    negative_queries: jax.Array,
    query_key: jax.Array,
    product_key: jax.Array,
    weight: float = 1.0,
) -> Past:
    """The negatives of all pairs as negatives of every query, but never the same product nor one wanted by it.

    Args:
      vectors: float[B, H, E], unit length, with gradient.
      present: bool[B, H]; what is not, is nobody's negative.
      negative_key: int32[B, H], equal to `product_key` for equal products; -1 for none.
      negative_queries: int32[B, H, M], query keys under which each was clicked, padded with -1.
      query_key, product_key: int32[B], of the batch's pairs.
      weight: w > 0; each counts w times in the denominator of a softmax.
    """
    query = query_key[:, None, None]
    clicked = jnp.any(query[..., None] == negative_queries[None], axis=-1)
    same = product_key[:, None, None] == negative_key[None]
    absent = ~present | (negative_key == NONE)
    return Past(vectors.astype(jnp.float32), clicked | same | absent, jnp.full(present.shape, -math.log(weight)))


def joined(first: Past, second: Past) -> Past:
    """The negatives of both, as one slot."""
    parts = [_one_slot(past) for past in (first, second)]
    vectors, excluded, log_count = zip(*parts, strict=True)
    return Past(jnp.concatenate(vectors, axis=1), jnp.concatenate(excluded, axis=2), jnp.concatenate(log_count, axis=1))


def _one_slot(past: Past) -> tuple[jax.Array, jax.Array, jax.Array]:
    shape = past.vectors.shape[:2]
    return (
        past.vectors.reshape(1, -1, past.vectors.shape[-1]),
        past.excluded.reshape(len(past.excluded), 1, -1),
        jnp.broadcast_to(past.log_count, shape).reshape(1, -1),
    )
