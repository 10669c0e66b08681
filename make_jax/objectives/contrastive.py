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
    rows: Side,
    columns: Side,
    excluded: jax.Array,
    scale: jax.Array,
    margin: float,
    past: Past | None = None,
    positive: jax.Array | None = None,
) -> jax.Array:
    """Additive-margin softmax over the batch, both directions, mean over the pairs that are present: float32 scalar.

    `L = −1/N Σ_i log e^{s(c_ii−m)} / (e^{s(c_ii−m)} + Σ_{j≠i} e^{s c_ij})` with cosine c, averaged over
    rows→columns and columns→rows (predecessor of MAKE, Taobao tech 2022; Wang et al. 2018, AM-Softmax). m = 0 is the
    softmax contrast of CLIP.

    With several positives P_i of a row, `L_i = −1/|P_i| Σ_{p∈P_i} log e^{s(c_ip−m)} / (Σ_{p∈P_i} e^{s(c_ip−m)} +
    Σ_{j∉P_i} e^{s c_ij})`, and the mean over the rows that have any (Khosla et al. 2020, SupCon, L_out).

    Args:
      rows, columns: the two sides.
      excluded: bool[B, B], pairs that are no negatives of each other.
      scale: scalar s, the inverse temperature.
      margin: m ≥ 0, subtracted from the positives' cosine.
      past: further negatives in the direction rows→columns.
      positive: bool[B, B], no pair of it excluded; None for the diagonal.
    """
    positive = _diagonal(excluded) if positive is None else positive
    cosine = _cosine(rows, columns)
    logits = scale * jnp.where(positive, cosine - margin, cosine)
    present = rows.present[:, None] & columns.present[None, :]
    counted = positive & present
    logits = jnp.where(excluded | ~present, -jnp.inf, logits)
    to_columns = jnp.where(positive, logits, logits - _along_rows(columns.log_count))
    if past is not None:
        kept = scale * _past_cosine(rows, past) - past.log_count
        kept = jnp.where(past.excluded, -jnp.inf, kept)
        to_columns = jnp.concatenate([to_columns, kept.reshape(kept.shape[0], -1)], axis=1)
    to_rows = jnp.where(positive, logits, logits - _along_rows(rows.log_count).T)
    wanted = jnp.where(counted, logits, 0.0)
    return 0.5 * (_lost(to_columns, wanted, counted, axis=1) + _lost(to_rows, wanted, counted, axis=0))


def _lost(logits: jax.Array, wanted: jax.Array, counted: jax.Array, axis: int) -> jax.Array:
    """How far the logits of the positives are below the sum of all, mean over whatever has a positive."""
    positives = jnp.sum(counted, axis=axis)
    # Where there is nothing to pull, there may be nothing to sum either, whose logarithm has no gradient.
    logits = jnp.where(jnp.expand_dims(positives > 0, axis), logits, 0.0)
    lost = jax.nn.logsumexp(logits, axis=axis) - jnp.sum(wanted, axis=axis) / jnp.maximum(positives, 1)
    return jnp.sum(jnp.where(positives > 0, lost, 0.0)) / jnp.maximum(jnp.sum(positives > 0), 1)


def sigmoid_contrast(
    rows: Side,
    columns: Side,
    excluded: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    past: Past | None = None,
    positive: jax.Array | None = None,
) -> jax.Array:
    """Every pair judged for itself: float32 scalar.

    `L = −1/N Σ_i Σ_j log σ(z_ij (s c_ij + b))`, z = 1 for positives and −1 else, over the pairs that are not excluded
    and of which both sides are present; N of them are on the diagonal (Zhai et al. 2023, SigLIP).

    Args:
      rows, columns: the two sides; log_count is not used.
      excluded: bool[B, B], pairs that are no negatives of each other.
      scale: scalar s.
      bias: scalar b; it starts low, since all but one in B pairs are negatives.
      past: further negatives of the rows.
      positive: bool[B, B], no pair of it excluded; None for the diagonal.
    """
    logits = scale * _cosine(rows, columns) + bias
    signs = 2 * (_diagonal(excluded) if positive is None else positive) - 1
    counted = rows.present[:, None] & columns.present[None, :] & ~excluded
    total = jnp.sum(jnp.where(counted, jax.nn.softplus(-signs * logits), 0.0))
    if past is not None:
        kept = jax.nn.softplus(scale * _past_cosine(rows, past) + bias)
        total += jnp.sum(jnp.where(past.excluded | ~rows.present[:, None, None], 0.0, kept))
    return total / jnp.maximum(jnp.sum(rows.present & columns.present), 1)


def _diagonal(pairs: jax.Array) -> jax.Array:
    return jnp.eye(pairs.shape[0], dtype=bool)


def _cosine(rows: Side, columns: Side) -> jax.Array:
    left, right = rows.vectors.astype(jnp.float32), columns.vectors.astype(jnp.float32)
    return jnp.dot(left, right.T, precision="highest")


def _past_cosine(rows: Side, past: Past) -> jax.Array:
    return jnp.einsum("be,sce->bsc", rows.vectors.astype(jnp.float32), past.vectors, precision="highest")


def _along_rows(log_count: jax.Array | float) -> jax.Array:
    return jnp.atleast_1d(jnp.asarray(log_count, jnp.float32))[None, :]
