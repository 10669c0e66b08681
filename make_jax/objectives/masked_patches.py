"""Masked-patch modelling: what a hidden patch (or region) looks like, by regression (MPM) and by contrast (MPM_R)."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

TEMPERATURE = 0.1  # of the contrast between patches
_ALIKE = 0.9999  # the cosine above which two patches are the same, such as two of a white background


class Hidden(NamedTuple):
    """The patches hidden in each of N pictures of L: places int32[N, n], and bool[N, n], which of them are used."""

    places: jax.Array
    used: jax.Array


def hide_patches(key: jax.Array, present: jax.Array, share: float) -> Hidden:
    """Choose patches at random, the same share of every picture.

    A picture with c patches loses round(share · c) of them, at least one; one with a single patch loses none, since
    nothing would be left to tell it from.

    Args:
      key: decides the choice.
      present: bool[N, L], which patches there are.
      share: from 0 to 1.
    """
    count = jnp.sum(present, axis=1, keepdims=True)
    wanted = jnp.where(count > 1, jnp.maximum(jnp.round(share * count), 1), 0)
    most = min(present.shape[1], max(1, math.ceil(share * present.shape[1])))
    _, places = jax.lax.top_k(jnp.where(present, jax.random.uniform(key, present.shape), -1.0), most)
    return Hidden(places, jnp.arange(most)[None] < jnp.minimum(wanted, count - 1))


def hidden_mask(hidden: Hidden, patches: int) -> jax.Array:
    """Which patches are hidden: bool[N, L]."""
    return jnp.any((hidden.places[..., None] == jnp.arange(patches)) & hidden.used[..., None], axis=1)


def take_patches(values: jax.Array, hidden: Hidden) -> jax.Array:
    """What belongs to the hidden patches: float[N, L, D] → float[N, n, D]."""
    return jnp.take_along_axis(values, hidden.places[..., None], axis=1)


def regression_loss(predicted: jax.Array, truth: jax.Array, used: jax.Array) -> jax.Array:
    """Mean squared error of what is hidden, each patch brought to mean 0 and variance 1 (MAE, He et al. 2022).

    float[N, n, F], float[N, n, F], bool[N, n] → float32 scalar.
    """
    truth = truth.astype(jnp.float32)
    centred = truth - jnp.mean(truth, axis=-1, keepdims=True)
    wanted = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-6)
    error = jnp.mean((predicted - wanted) ** 2, axis=-1)
    return jnp.sum(jnp.where(used, error, 0.0)) / jnp.maximum(jnp.sum(used), 1)


def contrast_loss(
    key: jax.Array,
    predicted: jax.Array,
    features: jax.Array,
    present: jax.Array,
    hidden: Hidden,
    negatives: int,
) -> tuple[jax.Array, jax.Array]:
    """Tell each hidden patch's true feature from those of other patches of the batch (SIGIR'23, arXiv 2304.04377).

    `−log e^{z·f/τ} / (e^{z·f/τ} + Σ_k e^{z·f_k/τ})` with unit vectors, mean over the hidden patches. The negatives
    are the same for all, drawn among the patches of all pictures; one that is absent, or the same as the true one, is
    left out.

    Args:
      key: decides the negatives.
      predicted: float[N, n, D], z, unit length.
      features: float[N, L, D], unit length, of all patches; no gradient flows to them.
      present: bool[N, L], which patches there are.
      hidden: which are hidden.
      negatives: K, how many patches to draw.

    Returns:
      The loss, and the share of hidden patches whose own feature is nearer than every negative: float32 scalars.
    """
    features = jax.lax.stop_gradient(features)
    count, patches, _ = features.shape
    drawn = jax.random.randint(key, (negatives,), 0, count * patches)
    others, there = features[drawn // patches, drawn % patches], present[drawn // patches, drawn % patches]
    own = take_patches(features, hidden)
    alike = jnp.einsum("pnd,kd->pnk", own, others, precision="highest") > _ALIKE
    wanted = jnp.sum(predicted * own, axis=-1) / TEMPERATURE
    logits = jnp.einsum("pnd,kd->pnk", predicted, others, precision="highest") / TEMPERATURE
    logits = jnp.where(alike | ~there, -jnp.inf, logits)
    lost = jax.nn.logsumexp(jnp.concatenate([wanted[..., None], logits], axis=-1), axis=-1) - wanted
    used = jnp.maximum(jnp.sum(hidden.used), 1)
    right = hidden.used & (wanted > jnp.max(logits, axis=-1, initial=-jnp.inf))
    return jnp.sum(jnp.where(hidden.used, lost, 0.0)) / used, jnp.sum(right) / used
