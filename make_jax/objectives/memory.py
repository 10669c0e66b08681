"""Memory-bank negatives (MBNS): the product vectors of past steps, first in, first out.

Zheng et al., SIGIR'23 (arXiv 2304.04377); Wang et al. 2020, "Cross-batch memory for embedding learning".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from make_jax.objectives.contrastive import log_counts
from make_jax.objectives.further import NONE, Further


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
    keys = jnp.full((slots, batch_size), NONE, jnp.int32)
    return Memory(
        jnp.zeros((slots, batch_size, embedding)),
        keys,
        keys,
        jnp.full((slots, batch_size, product_queries), NONE, jnp.int32),
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
        jax.lax.stop_gradient(vectors), jnp.where(present, product_key, NONE), query_key, product_queries, log_q
    )
    return Memory(
        *(jnp.concatenate([added[None].astype(kept.dtype), kept[:-1]]) for added, kept in zip(new, memory, strict=True))
    )


def past_negatives(memory: Memory, drawn: jax.Array | int, log_q: float) -> Further:
    """The memory as further negatives of a batch.

    Args:
      memory: S batches.
      drawn, log_q: how many products there are in sight, and how much of their popularity is taken off; `log_counts`.
    """
    log_count = log_counts(memory.log_q, drawn, log_q) if log_q else jnp.zeros_like(memory.log_q)
    kept = Further(memory.vectors, memory.product_key, memory.query_key, memory.product_queries, log_count)
    return Further(*(jnp.swapaxes(array, 0, 1) for array in kept))


def filled(memory: Memory) -> jax.Array:
    """How many vectors there are: int32 scalar."""
    return jnp.sum(memory.product_key != NONE)
