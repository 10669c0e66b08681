"""Memory-bank negatives (MBNS): the product vectors of past steps, first in, first out.

Zheng et al., SIGIR'23 (arXiv 2304.04377); Wang et al. 2020, "Cross-batch memory for embedding learning".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from make_jax.objectives.contrastive import Past

EMPTY = -1


class Memory(NamedTuple):
    """The last S batches of products, newest first; all of it without gradient.

    vectors float32[S, B, E]; product_key int32[S, B], -1 where there is no vector; query_key int32[S, B], of the query
    it came with; product_queries int32[S, B, M]; log_q float32[S, B]. Batches stay apart, so that each device of a mesh
    keeps the rows that it made.
    """

    vectors: jax.Array
    product_key: jax.Array
    query_key: jax.Array
    product_queries: jax.Array
    log_q: jax.Array


def empty_memory(slots: int, batch_size: int, embedding: int, product_queries: int) -> Memory:
    """A memory of S batches of B products of M query keys, with nothing in it."""
    keys = jnp.full((slots, batch_size), EMPTY, jnp.int32)
    return Memory(
        jnp.zeros((slots, batch_size, embedding)),
        keys,
        keys,
        jnp.full((slots, batch_size, product_queries), EMPTY, jnp.int32),
        jnp.zeros((slots, batch_size)),
    )


def remember(
    memory: Memory,
    vectors: jax.Array,
    present: jax.Array,
    product_key: jax.Array,
    query_key: jax.Array,
    product_queries: jax.Array,
    log_q: jax.Array,
) -> Memory:
    """The memory after one more batch, whose oldest batch is forgotten.

    Args:
      memory: S batches.
      vectors: float[B, E], the products' vectors.
      present: bool[B]; what is not, is not remembered.
      product_key, query_key: int32[B].
      product_queries: int32[B, M].
      log_q: float[B], log of each product's probability of being drawn.
    """
    new = Memory(
        jax.lax.stop_gradient(vectors), jnp.where(present, product_key, EMPTY), query_key, product_queries, log_q
    )
    return Memory(
        *(jnp.concatenate([added[None].astype(kept.dtype), kept[:-1]]) for added, kept in zip(new, memory, strict=True))
    )


def past_negatives(memory: Memory, query_key: jax.Array, product_key: jax.Array) -> Past:
    """What a batch's queries may take as negatives: never the same product, nor one wanted under an equal query.

    Args:
      memory: S batches.
      query_key, product_key: int32[B], of the batch's pairs.
    """
    query = query_key[:, None, None]
    clicked = jnp.any(query[..., None] == memory.product_queries[None], axis=-1)
    excluded = clicked | (query == memory.query_key) | (product_key[:, None, None] == memory.product_key)
    return Past(memory.vectors, excluded | (memory.product_key == EMPTY))


def filled(memory: Memory) -> jax.Array:
    """How many vectors there are: int32 scalar."""
    return jnp.sum(memory.product_key != EMPTY)
