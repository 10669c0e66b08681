"""How the vectors of a batch lie on the sphere: what shows a collapse long before retrieval metrics do."""

from __future__ import annotations

import jax
import jax.numpy as jnp

SAMPLE = 1024  # rows that are looked at, so that the cost does not grow with the batch

_EXACT = jax.lax.Precision.HIGHEST  # the smallest singular values are what matters


def spread(queries: jax.Array, products: jax.Array, present: jax.Array) -> dict[str, jax.Array]:
    """Alignment and uniformity (Wang & Isola 2020, arXiv 2005.10242), and second moments, of at most SAMPLE rows.

    Args:
      queries: float32[B, E] unit vectors.
      products: float32[B, E], those that belong to them.
      present: bool[B], which products there are.

    Returns:
      `alignment`, the mean squared distance of a query and its product: 0 at best. `query_uniformity` and
      `product_uniformity`, log mean exp(−2 · squared distance) over pairs of rows: 0 where all are in one place, near
      −4 where they are spread evenly. `moments` float32[2, E, E]: the sum of x xᵀ over queries, and over products.
    """
    queries, products, present = (_some(rows) for rows in (queries, products, present))
    there = jnp.where(present[:, None], products, 0.0)
    distances = jnp.sum((queries - products) ** 2, axis=1)
    return {
        "alignment": jnp.sum(jnp.where(present, distances, 0.0)) / jnp.maximum(jnp.sum(present), 1),
        "query_uniformity": _uniformity(queries, jnp.ones(len(queries), bool)),
        "product_uniformity": _uniformity(products, present),
        "moments": jnp.stack([jnp.matmul(rows.T, rows, precision=_EXACT) for rows in (queries, there)]),
    }


def _some(rows: jax.Array) -> jax.Array:
    """At most SAMPLE rows, evenly spaced: of a batch that is split over devices, each gives of its own."""
    every = -(-len(rows) // SAMPLE)
    number = len(rows) // every
    return rows[: number * every].reshape(number, every, *rows.shape[1:])[:, 0]


def _uniformity(rows: jax.Array, present: jax.Array) -> jax.Array:
    pairs = present[:, None] & present[None, :] & ~jnp.eye(len(rows), dtype=bool)
    near = jnp.exp(4.0 * (jnp.matmul(rows, rows.T, precision=_EXACT) - 1.0))
    count = jnp.sum(pairs)
    return jnp.where(count > 0, jnp.log(jnp.sum(jnp.where(pairs, near, 0.0)) / jnp.maximum(count, 1)), 0.0)
