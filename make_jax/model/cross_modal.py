"""Cross-modal layers: title and pictures of a product meet, by attention among all or to the other side only."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import FusionConfig, TransformerConfig
from make_jax.model.layers import CrossAttention, Transformer


class ProductStates(NamedTuple):
    """The states of a product's title and pictures, float32[B, T, D] and [B, L, D], with masks bool[B, T] and [B, L].

    L is I·P, picture by picture. A modality that the model does not read has no positions at all.
    """

    title: jax.Array
    title_mask: jax.Array
    picture: jax.Array
    picture_mask: jax.Array


class CrossModalLayers(nn.Module):
    """Let the states of title and pictures attend to each other; shapes and masks stay."""

    config: FusionConfig
    transformer: TransformerConfig

    @nn.compact
    def __call__(self, states: ProductStates, deterministic: bool) -> ProductStates:
        layers = self.config.layers
        if layers == 0:
            return states
        title, title_mask, picture, picture_mask = states
        if self.config.kind == "cross_attention":
            for layer in range(layers):
                title, picture = CoAttention(self.transformer, name=f"layer_{layer}")(
                    ProductStates(title, title_mask, picture, picture_mask), deterministic
                )
            title, picture = nn.LayerNorm(name="norm_title")(title), nn.LayerNorm(name="norm_picture")(picture)
            return ProductStates(title, title_mask, picture, picture_mask)
        kind = self.param("modality", nn.initializers.normal(stddev=0.02), (2, title.shape[-1]))
        joined = jnp.concatenate([title + kind[0], picture + kind[1]], axis=1)
        mask = jnp.concatenate([title_mask, picture_mask], axis=1)
        stack = dataclasses.replace(self.transformer, layers=layers)
        joined = Transformer(stack, name="transformer")(joined, mask, deterministic)
        length = title.shape[1]
        return ProductStates(joined[:, :length], title_mask, joined[:, length:], picture_mask)


class CoAttention(nn.Module):
    """One layer in which each side looks at the other, both as they were before it (Lu et al. 2019, ViLBERT)."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, states: ProductStates, deterministic: bool) -> tuple[jax.Array, jax.Array]:
        title, title_mask, picture, picture_mask = states
        seeing = CrossBlock(self.config, name="title")(title, picture, picture_mask, deterministic)
        seen = CrossBlock(self.config, name="picture")(picture, title, title_mask, deterministic)
        return seeing, seen


class CrossBlock(nn.Module):
    """Pre-norm block: attention to `others`, then a GELU MLP, each with a residual.

    float[B, L, D], float[B, M, D], bool[B, M] → float[B, L, D].
    """

    config: TransformerConfig

    @nn.compact
    def __call__(self, states: jax.Array, others: jax.Array, mask: jax.Array, deterministic: bool) -> jax.Array:
        drop = nn.Dropout(self.config.dropout, deterministic=deterministic)
        asking = nn.LayerNorm(name="norm_attention")(states)
        asked = nn.LayerNorm(name="norm_others")(others)
        states += drop(CrossAttention(self.config, name="attention")(asking, asked, mask))
        flat = nn.LayerNorm(name="norm_mlp")(states).reshape(-1, self.config.width)
        hidden = nn.gelu(nn.Dense(self.config.width * self.config.mlp_ratio, name="up")(flat))
        return states + drop(nn.Dense(self.config.width, name="down")(hidden).reshape(states.shape))
