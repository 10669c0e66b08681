"""Contrasts between two sides of a batch: queries, products, titles, pictures."""

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
    cosines = cosine(rows, columns)
    there = softmax_rows(cosines, rows, columns, excluded, positive, scale, margin, past)
    back = softmax_rows(cosines.T, columns, rows, excluded.T, positive.T, scale, margin)
    return 0.5 * (mean_lost(there) + mean_lost(back))


class Lost(NamedTuple):
    """By how much each of R rows misses its positives, and whether it has any: float32[R], 0 where not, and bool[R]."""

    amount: jax.Array
    pulled: jax.Array


def softmax_rows(
    cosines: jax.Array,
    rows: Side,
    columns: Side,
    excluded: jax.Array,
    positive: jax.Array,
    scale: jax.Array,
    margin: float,
    past: Past | None = None,
) -> Lost:
    """The terms of `am_softmax` of some rows, in one direction.

    Args:
      cosines: float[R, C].
      rows, columns: R and C of them.
      excluded, positive: bool[R, C].
      scale, margin: see `am_softmax`.
      past: further negatives, excluded bool[R, S, C'].
    """
    present = rows.present[:, None] & columns.present[None, :]
    counted = positive & present
    logits = scale * jnp.where(positive, cosines - margin, cosines)
    logits = jnp.where(excluded | ~present, -jnp.inf, logits)
    wanted = jnp.sum(jnp.where(counted, logits, 0.0), axis=1)
    logits = jnp.where(positive, logits, logits - jnp.asarray(columns.log_count, jnp.float32))
    if past is not None:
        kept = scale * _past_cosine(rows, past) - past.log_count
        kept = jnp.where(past.excluded, -jnp.inf, kept)
        logits = jnp.concatenate([logits, kept.reshape(len(kept), -1)], axis=1)
    positives = jnp.sum(counted, axis=1)
    pulled = positives > 0
    # Where there is nothing to pull, there may be nothing to sum either, whose logarithm has no gradient.
    logits = jnp.where(pulled[:, None], logits, 0.0)
    lost = jax.nn.logsumexp(logits, axis=1) - wanted / jnp.maximum(positives, 1)
    return Lost(jnp.where(pulled, lost, 0.0), pulled)


def mean_lost(lost: Lost) -> jax.Array:
    """The mean over all rows that have a positive: float32 scalar."""
    return jnp.sum(lost.amount) / jnp.maximum(jnp.sum(lost.pulled), 1)


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
    positive = _diagonal(excluded) if positive is None else positive
    return mean_sigmoid(sigmoid_rows(rows, columns, excluded, positive, scale, bias, past), rows, columns)


def sigmoid_rows(
    rows: Side,
    columns: Side,
    excluded: jax.Array,
    positive: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    past: Past | None = None,
) -> jax.Array:
    """The terms of `sigmoid_contrast` of R rows with C columns, summed over each row: float32[R]."""
    logits = scale * cosine(rows, columns) + bias
    counted = rows.present[:, None] & columns.present[None, :] & ~excluded
    lost = jnp.sum(jnp.where(counted, jax.nn.softplus(-(2 * positive - 1) * logits), 0.0), axis=1)
    if past is not None:
        kept = jax.nn.softplus(scale * _past_cosine(rows, past) + bias)
        lost += jnp.sum(jnp.where(past.excluded | ~rows.present[:, None, None], 0.0, kept), axis=(1, 2))
    return lost


def mean_sigmoid(lost: jax.Array, rows: Side, columns: Side) -> jax.Array:
    """float[B], the sums of all rows → their sum by how many pairs are present: float32 scalar."""
    return jnp.sum(lost) / jnp.maximum(jnp.sum(rows.present & columns.present), 1)


def cosine(rows: Side, columns: Side) -> jax.Array:
    """All cosines of two sides: float32[R, C]."""
    left, right = rows.vectors.astype(jnp.float32), columns.vectors.astype(jnp.float32)
    return jnp.dot(left, right.T, precision="highest")


def _diagonal(pairs: jax.Array) -> jax.Array:
    return jnp.eye(pairs.shape[0], dtype=bool)


def _past_cosine(rows: Side, past: Past) -> jax.Array:
    return jnp.einsum("be,sce->bsc", rows.vectors.astype(jnp.float32), past.vectors, precision="highest")
