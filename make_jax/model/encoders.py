"""The single-modality towers: text (queries and titles have one each) and pictures."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import ImageConfig, TextConfig
from make_jax.model.layers import Transformer, position_embedding, token_embedding


class TextEncoder(nn.Module):
    """Encode padded token ids: int32[B, L] → (states float32[B, L, D], mask bool[B, L]); id 0 is padding.

    L may be anything up to `config.max_tokens`, so that short batches cost less.
    """

    config: TextConfig
    vocab_size: int

    @nn.compact
    def __call__(self, ids: jax.Array, deterministic: bool = True) -> tuple[jax.Array, jax.Array]:
        width, length = self.config.transformer.width, ids.shape[1]
        mask = ids != 0
        states = token_embedding(self.vocab_size, width)(ids)
        states += position_embedding(self, self.config.max_tokens, width)[:length]
        return Transformer(self.config.transformer, name="transformer")(states, mask, deterministic), mask


class ImageEncoder(nn.Module):
    """ViT: uint8[B, H, W, 3], bool[B] → (states float32[B, P, D], mask bool[B, P]).

    The mask is false throughout for a product without a picture.
    """

    config: ImageConfig

    @nn.compact
    def __call__(
        self, image: jax.Array, has_image: jax.Array, deterministic: bool = True
    ) -> tuple[jax.Array, jax.Array]:
        config, width = self.config, self.config.transformer.width
        pixels = image.astype(jnp.float32) / 127.5 - 1.0
        states = self._stem(pixels).reshape(image.shape[0], config.patches, width)
        states += position_embedding(self, config.patches, width)
        mask = jnp.broadcast_to(has_image[:, None], states.shape[:2])
        return Transformer(config.transformer, name="transformer")(states, mask, deterministic), mask

    def _stem(self, cells: jax.Array) -> jax.Array:
        """Merge cells into patches step by step: float[B, H, W, 3] → float[B·P, D]."""
        steps = self.config.stem_steps
        for number, size in enumerate(steps):
            last = number == len(steps) - 1
            channels = self.config.transformer.width >> (len(steps) - 1 - number)
            merged, grid = merge_cells(cells, size)
            flat = nn.Dense(channels, name=f"stem_{number}")(merged)
            if not last:
                flat = nn.gelu(nn.LayerNorm(name=f"stem_norm_{number}")(flat))
            cells = flat.reshape(*grid, channels)
        return flat


def merge_cells(cells: jax.Array, size: int) -> tuple[jax.Array, tuple[int, int, int]]:
    """Join `size` × `size` neighbours: float[B, H, W, C] → (float[B·h·w, size²·C], (B, h, w))."""
    batch, height, width, channels = cells.shape
    grid = (batch, height // size, width // size)
    split = cells.reshape(batch, grid[1], size, grid[2], size, channels).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(-1, size * size * channels), grid
