"""Cross-modal fusion and Modal Adaptation: one product vector from a title and a picture.

Modal Adaptation (MAKE, abstract) gives text and picture a suitable weight *per product*. It never sees the query,
or product vectors could not be indexed. The form of the gate is our own design: both modalities are brought to
unit length first, so that the weights alone say how much each counts, and the gate also sees where they agree.
"""

from __future__ import annotations

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import FusionConfig, TransformerConfig
from make_jax.model.layers import Transformer, masked_mean, unit_norm


class ProductEmbedding(NamedTuple):
    """What the product tower returns; all float32, rows of unit length (zero where there is nothing to encode).

    vector [B, E]; weights [B, 2] (title, picture; they sum to 1, a missing modality has exactly 0);
    title [B, E] and picture [B, E], the vectors of each modality alone.
    """

    vector: jax.Array
    weights: jax.Array
    title: jax.Array
    picture: jax.Array


class CrossModalLayers(nn.Module):
    """Let title and picture states attend to each other: [B, T, D] and [B, P, D] → the same shapes."""

    layers: int
    transformer: TransformerConfig

    @nn.compact
    def __call__(
        self,
        title: jax.Array,
        title_mask: jax.Array,
        picture: jax.Array,
        picture_mask: jax.Array,
        deterministic: bool,
    ) -> tuple[jax.Array, jax.Array]:
        if self.layers == 0:
            return title, picture
        width = title.shape[-1]
        kind = self.param("modality", nn.initializers.normal(stddev=0.02), (2, width))
        states = jnp.concatenate([title + kind[0], picture + kind[1]], axis=1)
        mask = jnp.concatenate([title_mask, picture_mask], axis=1)
        states = Transformer(self.transformer, name="transformer")(states, mask, deterministic)
        return states[:, : title.shape[1]], states[:, title.shape[1] :]


class ModalAdaptation(nn.Module):
    """Weigh the pooled modalities of each product: [B, D], [B, D], bool[B, 2] → ProductEmbedding."""

    config: FusionConfig
    embedding: int

    @nn.compact
    def __call__(self, title: jax.Array, picture: jax.Array, present: jax.Array) -> ProductEmbedding:
        title = unit_norm(nn.Dense(self.embedding, use_bias=False, name="project_title")(title))
        picture = unit_norm(nn.Dense(self.embedding, use_bias=False, name="project_picture")(picture))
        title = jnp.where(present[:, :1], title, 0.0)
        picture = jnp.where(present[:, 1:], picture, 0.0)
        weights = masked_softmax(self._logits(title, picture), present)
        vector = unit_norm(weights[:, :1] * title + weights[:, 1:] * picture)
        return ProductEmbedding(vector, weights, title, picture)

    def _logits(self, title: jax.Array, picture: jax.Array) -> jax.Array:
        if self.config.kind == "mean":
            return jnp.zeros((title.shape[0], 2), jnp.float32)
        seen = jnp.concatenate([title, picture, title * picture], axis=-1)
        # Unit vectors have entries of size 1/sqrt(E); the norm brings the gate's input back to size 1.
        hidden = nn.gelu(nn.Dense(self.config.gate_width, name="gate_hidden")(nn.LayerNorm(name="gate_norm")(seen)))
        # Zeros: the gate starts as the plain mean, a hard baseline, and departs from it where that pays.
        return nn.Dense(2, kernel_init=nn.initializers.zeros, name="gate")(hidden)


def masked_softmax(logits: jax.Array, present: jax.Array) -> jax.Array:
    """Softmax over the entries where `present` is true, exactly 0 elsewhere (all 0 where none is).

    float[B, 2], bool[B, 2] → float32[B, 2].
    """
    logits = logits.astype(jnp.float32)
    peak = jnp.max(jnp.where(present, logits, -jnp.inf), axis=-1, keepdims=True)
    parts = jnp.where(present, jnp.exp(jnp.where(present, logits - peak, 0.0)), 0.0)
    return parts / jnp.maximum(jnp.sum(parts, axis=-1, keepdims=True), 1e-30)


def pool_modalities(
    title: jax.Array, title_mask: jax.Array, picture: jax.Array, picture_mask: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Masked mean per modality, and which of the two a product has: ([B, D], [B, D], bool[B, 2])."""
    present = jnp.stack([jnp.any(title_mask, axis=1), jnp.any(picture_mask, axis=1)], axis=1)
    return masked_mean(title, title_mask), masked_mean(picture, picture_mask), present
