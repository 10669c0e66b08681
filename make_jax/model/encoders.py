"""The single-modality towers: text (queries and titles have one each) and pictures."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import ImageConfig, TextConfig
from make_jax.model.layers import Transformer, position_embedding, token_embedding


class TextEncoder(nn.Module):
    """Encode padded token ids: int32[B, L] → (states float32[B, L, D], mask bool[B, L]); `pad_id` is padding.

    L may be anything up to `config.max_tokens`, so that short batches cost less.
    """

    config: TextConfig
    vocab_size: int
    pad_id: int

    @nn.compact
    def __call__(self, ids: jax.Array, deterministic: bool = True) -> tuple[jax.Array, jax.Array]:
        width, length = self.config.transformer.width, ids.shape[1]
        mask = ids != self.pad_id
        states = token_embedding(self.vocab_size, width)(ids)
        states += position_embedding(self, self.config.max_tokens, width)[:length]
        return Transformer(self.config.transformer, name="transformer")(states, mask, deterministic), mask


class ImageEncoder(nn.Module):
    """The pictures of products → (states float32[B, L, D], mask bool[B, L]).

    Takes pixels uint8[B, I, H, W, 3] with bool[B, I] (a ViT over each picture; L = I·P), or region features
    float32[B, R, F] with bool[B, R] (a transformer over the regions; L = R). The mask is false for what a product
    lacks, so throughout for one without a picture.
    """

    config: ImageConfig

    @nn.compact
    def __call__(
        self, image: jax.Array, has_image: jax.Array, deterministic: bool = True
    ) -> tuple[jax.Array, jax.Array]:
        config, width = self.config, self.config.transformer.width
        transformer = Transformer(config.transformer, name="transformer")
        if config.stem == "regions":
            return transformer(nn.Dense(width, name="regions")(image), has_image, deterministic), has_image
        batch, images = has_image.shape
        pixels = image.reshape(-1, *image.shape[2:]).astype(jnp.float32) / 127.5 - 1.0
        states = self._stem(pixels).reshape(batch * images, config.patches, width)
        states += position_embedding(self, config.patches, width)
        # Pictures of one product meet in the cross-modal layers; here each is read for itself.
        mask = jnp.broadcast_to(has_image.reshape(-1, 1), states.shape[:2])
        states = transformer(states, mask, deterministic)
        return states.reshape(batch, -1, width), mask.reshape(batch, -1)

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
