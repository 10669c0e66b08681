"""Query–item contrast (QIC) with Keyword Enhancement in its mask form."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def false_negatives(query_key: jax.Array, product_key: jax.Array, product_queries: jax.Array) -> jax.Array:
    """Which pairs of a batch must not be negatives of each other: bool[B, B], rows queries, columns products.

    Entry (i, j), i ≠ j, is true when product j was ever clicked under a query equal to query i, when the query
    it came with is equal to query i, or when j is the same product as i. The diagonal (the positives) is false.

    Args:
      query_key: int32[B], equal for equal queries.
      product_key: int32[B], equal for equal products.
      product_queries: int32[B, M], query keys under which each product was clicked, padded with -1.
    """
    clicked = jnp.any(query_key[:, None, None] == product_queries[None, :, :], axis=-1)
    same_query = query_key[:, None] == query_key[None, :]
    same_product = product_key[:, None] == product_key[None, :]
    return (clicked | same_query | same_product) & ~jnp.eye(query_key.shape[0], dtype=bool)


def am_softmax(
    queries: jax.Array,
    products: jax.Array,
    excluded: jax.Array,
    present: jax.Array,
    scale: jax.Array,
    margin: float,
) -> jax.Array:
    """Additive-margin softmax over the batch, both directions, mean over the pairs that are present: float32 scalar.

    `L = −1/N Σ_i log e^{s(c_ii−m)} / (e^{s(c_ii−m)} + Σ_{j≠i} e^{s c_ij})` with cosine c, averaged over
    query→product and product→query (predecessor of MAKE, Taobao tech 2022; Wang et al. 2018, AM-Softmax).

    Args:
      queries: float[B, E], unit length.
      products: float[B, E], unit length; row i is the positive of query i.
      excluded: bool[B, B], pairs that are no negatives of each other (see `false_negatives`).
      present: bool[B], whether there is a product vector at all; one that is missing (a picture that a product
        does not have) is nobody's positive and nobody's negative.
      scale: scalar s, the inverse temperature.
      margin: m ≥ 0, subtracted from the positives' cosine.
    """
    cosine = jnp.dot(queries.astype(jnp.float32), products.astype(jnp.float32).T, precision="highest")
    positive = jnp.eye(cosine.shape[0], dtype=bool)
    logits = scale * jnp.where(positive, cosine - margin, cosine)
    logits = jnp.where(excluded | (~present[None, :] & ~positive), -jnp.inf, logits)
    wanted = jnp.diagonal(logits)
    to_product = jax.nn.logsumexp(logits, axis=1) - wanted
    to_query = jax.nn.logsumexp(logits, axis=0) - wanted
    total = jnp.sum(jnp.where(present, to_product + to_query, 0.0))
    return 0.5 * total / jnp.maximum(jnp.sum(present), 1)
