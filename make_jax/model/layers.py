"""Transformer blocks and the small numerical pieces that every tower shares."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import ComputeConfig, TransformerConfig

EPSILON = 1e-6
KEPT = {"dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "full": None}
_embedding_init = nn.initializers.normal(stddev=0.02)


def unit_norm(x: jax.Array) -> jax.Array:
    """Scale the last axis to length 1, float[..., E] → float32[..., E]; a zero vector stays zero.

    The epsilon sits inside the root, so the gradient at zero is finite: `x / max(‖x‖, ε)` gives NaN there.
    """
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + EPSILON**2)


def masked_mean(states: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean over the positions where mask is true: float[B, L, D], bool[B, L] → float32[B, D]; zero if none is.

    MAKE's predecessor found the mean over real tokens better than [CLS], and that padding must be left out.
    """
    weights = mask[..., None].astype(jnp.float32)
    # `where`, not only a product with 0: a padded position may hold anything, an infinity included.
    total = jnp.sum(jnp.where(mask[..., None], states, 0), axis=1, dtype=jnp.float32)
    return total / jnp.maximum(jnp.sum(weights, axis=1), 1)


class SelfAttention(nn.Module):
    """Multi-head attention among the positions of a sequence: float[B·L, D], bool[B, L] → float[B·L, D]."""

    config: TransformerConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, states: jax.Array, mask: jax.Array) -> jax.Array:
        width, heads, dtype = self.config.width, self.config.heads, self.compute.dtype
        # Heads outermost, so that tensor parallelism cuts between heads and not through q, k and v.
        qkv = nn.Dense(3 * width, dtype=dtype, name="qkv")(states).reshape(*mask.shape, heads, 3, width // heads)
        # A row without any valid key would softmax over nothing; letting it see everything keeps it finite,
        # and its output is masked wherever it is used.
        keys = mask | ~jnp.any(mask, axis=-1, keepdims=True)
        mixed = jax.nn.dot_product_attention(
            qkv[..., 0, :],
            qkv[..., 1, :],
            qkv[..., 2, :],
            mask=keys[:, None, None, :],
            implementation=self.compute.attention,
        )
        return nn.Dense(width, dtype=dtype, name="out")(mixed.reshape(states.shape))


class CrossAttention(nn.Module):
    """Multi-head attention of one sequence's positions to another's; exactly 0 where the other has none.

    float[B, L, D], float[B, M, D], bool[B, M] → float[B, L, D].
    """

    config: TransformerConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, states: jax.Array, others: jax.Array, mask: jax.Array) -> jax.Array:
        width, heads, dtype = self.config.width, self.config.heads, self.compute.dtype
        asking = nn.Dense(width, dtype=dtype, name="q")(states.reshape(-1, width))
        asked = nn.Dense(2 * width, dtype=dtype, name="kv")(others.reshape(-1, width))
        asked = asked.reshape(*mask.shape, heads, 2, width // heads)
        there = jnp.any(mask, axis=-1, keepdims=True)
        keys = mask | ~there  # as in SelfAttention: no softmax over nothing
        mixed = jax.nn.dot_product_attention(
            asking.reshape(*states.shape[:2], heads, width // heads),
            asked[..., 0, :],
            asked[..., 1, :],
            mask=keys[:, None, None, :],
            implementation=self.compute.attention,
        )
        found = nn.Dense(width, dtype=dtype, name="out")(mixed.reshape(-1, width)).reshape(states.shape)
        return jnp.where(there[..., None], found, 0)


class Block(nn.Module):
    """Pre-norm transformer block: attention, then a GELU MLP, each with a residual.

    float[B·L, D], bool[B, L] → (float[B·L, D], None): a step of `stacked`.
    """

    config: TransformerConfig
    compute: ComputeConfig
    deterministic: bool

    @nn.compact
    def __call__(self, states: jax.Array, mask: jax.Array) -> tuple[jax.Array, None]:
        config, dtype = self.config, self.compute.dtype
        drop = nn.Dropout(config.dropout, deterministic=self.deterministic)
        normed = nn.LayerNorm(dtype=dtype, name="norm_attention")(states)
        states += drop(SelfAttention(config, self.compute, name="attention")(normed, mask))
        normed = nn.LayerNorm(dtype=dtype, name="norm_mlp")(states)
        hidden = nn.gelu(nn.Dense(config.width * config.mlp_ratio, dtype=dtype, name="up")(normed))
        return states + drop(nn.Dense(config.width, dtype=dtype, name="down")(hidden)), None


def stacked(block: type[nn.Module], layers: int, compute: ComputeConfig) -> Any:
    """So many of `block`, one after the other, as one module; each parameter has all layers, [layers, ...].

    A block takes what it changes and, after that, what all layers see alike; it returns the former and None.
    """
    together = layers <= compute.unroll
    if compute.remat != "none":
        # Outside of a loop XLA would find that it has computed the same before, and keep that.
        block = nn.remat(block, policy=KEPT[compute.remat], prevent_cse=together)
    return nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=nn.broadcast,
        length=layers,
        unroll=layers if together else 1,
    )


class Transformer(nn.Module):
    """A stack of blocks and a final norm: float[B, L, D], bool[B, L] → float[B, L, D].

    Inside, positions of all sequences lie in one axis: XLA's CPU back end multiplies [B·L, D] by a matrix twice as
    fast as [B, L, D], whose weight gradient contracts over two axes.
    """

    config: TransformerConfig
    compute: ComputeConfig = ComputeConfig()

    @nn.compact
    def __call__(self, states: jax.Array, mask: jax.Array, deterministic: bool) -> jax.Array:
        flat = states.reshape(-1, self.config.width).astype(self.compute.dtype)
        if self.config.layers:
            stack = stacked(Block, self.config.layers, self.compute)
            flat, _ = stack(self.config, self.compute, deterministic, name="layers")(flat, mask)
        return nn.LayerNorm(dtype=self.compute.dtype, name="norm")(flat).reshape(states.shape)


def position_embedding(module: nn.Module, length: int, width: int) -> jax.Array:
    """Learned positions of a sequence, float32[length, width], as a parameter of `module`."""
    return module.param("positions", _embedding_init, (length, width))


def token_embedding(vocab_size: int, width: int, dtype: str, name: str | None = None) -> nn.Embed:
    """Token table, V × D, read as `dtype`; `name` where it is made in a call."""
    return nn.Embed(vocab_size, width, dtype=dtype, embedding_init=_embedding_init, name=name)
