"""Contrasts between two sides of a batch (queries, products, titles, pictures), and which pairs are no negatives."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Side(NamedTuple):
    """One side of a contrast; row i of one side belongs to row i of the other.

    vectors float[B, E], unit length; present bool[B]: what is missing (a picture that a product does not have) is
    nobody's positive and nobody's negative; log_count float[B]: see `log_counts`, 0 for no correction.
    """

    vectors: jax.Array
    present: jax.Array
    log_count: jax.Array | float = 0.0


class Past(NamedTuple):
    """Further negatives of the first side, kept from earlier steps or mined, in S slots of C.

    vectors float[S, C, E]; excluded bool[B, S, C], those that are no negatives of a row; log_count float[S, C].
    """

    vectors: jax.Array
    excluded: jax.Array
    log_count: jax.Array | float = 0.0


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


def same_products(product_key: jax.Array, title_ids: jax.Array, has_title: jax.Array) -> jax.Array:
    """Which products of a batch are no negatives of each other when their own parts are contrasted: bool[B, B].

    Those that are the same, and those whose titles are, token for token. Products that share a query stay negatives:
    they are what teaches a tower to tell a product from its like. The diagonal is false.

    Args:
      product_key: int32[B], equal for equal products.
      title_ids: int32[B, T].
      has_title: bool[B]; no title is like no other.
    """
    alike = jnp.all(title_ids[:, None] == title_ids[None, :], axis=-1) & has_title[:, None] & has_title[None, :]
    same = product_key[:, None] == product_key[None, :]
    return (alike | same) & ~jnp.eye(product_key.shape[0], dtype=bool)


def log_counts(log_q: jax.Array, drawn: jax.Array | int, strength: float) -> jax.Array:
    """The logQ correction (Bengio and Senécal 2008; Yi et al. 2019, "Sampling-bias-corrected neural modeling").

    `strength · log(drawn · q)`, the log of how often an entry is expected among so many draws. Taken off a negative's
    logit it makes the sum over the batch an estimate of the sum over everything, in which the popular count once.

    Args:
      log_q: float, log of the probability of being drawn.
      drawn: how many are drawn.
      strength: 1 for all of it, 0 for none.
    """
    return strength * (log_q.astype(jnp.float32) + jnp.log(jnp.asarray(drawn, jnp.float32)))


def am_softmax(
    rows: Side, columns: Side, excluded: jax.Array, scale: jax.Array, margin: float, past: Past | None = None
) -> jax.Array:
    """Additive-margin softmax over the batch, both directions, mean over the pairs that are present: float32 scalar.

    `L = −1/N Σ_i log e^{s(c_ii−m)} / (e^{s(c_ii−m)} + Σ_{j≠i} e^{s c_ij})` with cosine c, averaged over
    rows→columns and columns→rows (predecessor of MAKE, Taobao tech 2022; Wang et al. 2018, AM-Softmax). m = 0 is the
    softmax contrast of CLIP.

    Args:
      rows, columns: the two sides.
      excluded: bool[B, B], pairs that are no negatives of each other.
      scale: scalar s, the inverse temperature.
      margin: m ≥ 0, subtracted from the positives' cosine.
      past: further negatives in the direction rows→columns.
    """
    positive = jnp.eye(excluded.shape[0], dtype=bool)
    cosine = _cosine(rows, columns)
    logits = scale * jnp.where(positive, cosine - margin, cosine)
    absent = ~(columns.present[None, :] & rows.present[:, None])
    logits = jnp.where(excluded | (absent & ~positive), -jnp.inf, logits)
    wanted = jnp.diagonal(logits)
    to_columns = jnp.where(positive, logits, logits - _along_rows(columns.log_count))
    if past is not None:
        kept = scale * _past_cosine(rows, past) - past.log_count
        kept = jnp.where(past.excluded, -jnp.inf, kept)
        to_columns = jnp.concatenate([to_columns, kept.reshape(kept.shape[0], -1)], axis=1)
    to_rows = jnp.where(positive, logits, logits - _along_rows(rows.log_count).T)
    lost = (jax.nn.logsumexp(to_columns, axis=1) - wanted) + (jax.nn.logsumexp(to_rows, axis=0) - wanted)
    present = rows.present & columns.present
    return 0.5 * jnp.sum(jnp.where(present, lost, 0.0)) / jnp.maximum(jnp.sum(present), 1)


def sigmoid_contrast(
    rows: Side, columns: Side, excluded: jax.Array, scale: jax.Array, bias: jax.Array, past: Past | None = None
) -> jax.Array:
    """Every pair judged for itself: float32 scalar.

    `L = −1/N Σ_i Σ_j log σ(z_ij (s c_ij + b))`, z = 1 for i = j and −1 else, over the pairs that are not excluded and
    of which both sides are present; N positives (Zhai et al. 2023, SigLIP).

    Args:
      rows, columns: the two sides; log_count is not used.
      excluded: bool[B, B], pairs that are no negatives of each other.
      scale: scalar s.
      bias: scalar b; it starts low, since all but one in B pairs are negatives.
      past: further negatives of the rows.
    """
    logits = scale * _cosine(rows, columns) + bias
    signs = 2 * jnp.eye(excluded.shape[0]) - 1
    counted = rows.present[:, None] & columns.present[None, :] & ~excluded
    total = jnp.sum(jnp.where(counted, jax.nn.softplus(-signs * logits), 0.0))
    if past is not None:
        kept = jax.nn.softplus(scale * _past_cosine(rows, past) + bias)
        total += jnp.sum(jnp.where(past.excluded | ~rows.present[:, None, None], 0.0, kept))
    return total / jnp.maximum(jnp.sum(rows.present & columns.present), 1)


def _cosine(rows: Side, columns: Side) -> jax.Array:
    left, right = rows.vectors.astype(jnp.float32), columns.vectors.astype(jnp.float32)
    return jnp.dot(left, right.T, precision="highest")


def _past_cosine(rows: Side, past: Past) -> jax.Array:
    return jnp.einsum("be,sce->bsc", rows.vectors.astype(jnp.float32), past.vectors, precision="highest")


def _along_rows(log_count: jax.Array | float) -> jax.Array:
    return jnp.atleast_1d(jnp.asarray(log_count, jnp.float32))[None, :]
