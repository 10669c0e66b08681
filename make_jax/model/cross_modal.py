"""Cross-modal layers: title and pictures of a product meet, by attention among all or to the other side only."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import ComputeConfig, FusionConfig, TransformerConfig
from make_jax.model.layers import CrossAttention, Transformer, stacked

Pair = tuple[jax.Array, jax.Array]


class ProductStates(NamedTuple):
    """The states of a product's title and pictures, float[B, T, D] and [B, L, D], with masks bool[B, T] and [B, L].

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
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, states: ProductStates, deterministic: bool) -> ProductStates:
        layers, dtype = self.config.layers, self.compute.dtype
        if layers == 0:
            return states
        title, title_mask, picture, picture_mask = states
        if self.config.kind == "cross_attention":
            stack = stacked(CoAttention, layers, self.compute)(
                self.transformer, self.compute, deterministic, name="layers"
            )
            (title, picture), _ = stack((title, picture), (title_mask, picture_mask))
            title = nn.LayerNorm(dtype=dtype, name="norm_title")(title)
            picture = nn.LayerNorm(dtype=dtype, name="norm_picture")(picture)
            return ProductStates(title, title_mask, picture, picture_mask)
        kind = self.param("modality", nn.initializers.normal(stddev=0.02), (2, title.shape[-1])).astype(dtype)
        joined = jnp.concatenate([title + kind[0], picture + kind[1]], axis=1)
        mask = jnp.concatenate([title_mask, picture_mask], axis=1)
        deep = dataclasses.replace(self.transformer, layers=layers)
        joined = Transformer(deep, self.compute, name="transformer")(joined, mask, deterministic)
        length = title.shape[1]
        return ProductStates(joined[:, :length], title_mask, joined[:, length:], picture_mask)


class CoAttention(nn.Module):
    """One layer in which each side looks at the other, both as they were before it (Lu et al. 2019, ViLBERT).

    Takes the states and the masks of both sides, title first, and returns the states and None: a step of `stacked`.
    """

    config: TransformerConfig
    compute: ComputeConfig
    deterministic: bool

    @nn.compact
    def __call__(self, states: Pair, masks: Pair) -> tuple[Pair, None]:
        (title, picture), (title_mask, picture_mask) = states, masks
        given = self.config, self.compute, self.deterministic
        seeing = CrossBlock(*given, name="title")(title, picture, picture_mask)
        seen = CrossBlock(*given, name="picture")(picture, title, title_mask)
        return (seeing, seen), None


class CrossBlock(nn.Module):
    """Pre-norm block: attention to `others`, then a GELU MLP, each with a residual.

    float[B, L, D], float[B, M, D], bool[B, M] → float[B, L, D].
    """

    config: TransformerConfig
    compute: ComputeConfig
    deterministic: bool

    @nn.compact
    def __call__(self, states: jax.Array, others: jax.Array, mask: jax.Array) -> jax.Array:
        dtype = self.compute.dtype
        drop = nn.Dropout(self.config.dropout, deterministic=self.deterministic)
        asking = nn.LayerNorm(dtype=dtype, name="norm_attention")(states)
        asked = nn.LayerNorm(dtype=dtype, name="norm_others")(others)
        states += drop(CrossAttention(self.config, self.compute, name="attention")(asking, asked, mask))
        flat = nn.LayerNorm(dtype=dtype, name="norm_mlp")(states).reshape(-1, self.config.width)
        hidden = nn.gelu(nn.Dense(self.config.width * self.config.mlp_ratio, dtype=dtype, name="up")(flat))
        return states + drop(nn.Dense(self.config.width, dtype=dtype, name="down")(hidden).reshape(states.shape))
