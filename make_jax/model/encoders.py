"""The single-modality towers: text (queries and titles have one each) and pictures."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import ComputeConfig, ImageConfig, TextConfig
from make_jax.model.layers import Transformer, position_embedding, token_embedding


class TextEncoder(nn.Module):
    """Encode padded token ids: int32[B, L] → (states float[B, L, D], mask bool[B, L]); `pad_id` is padding.

    L may be anything up to `config.max_tokens`, so that short batches cost less. `tokens` is another's token table; an
    encoder that is given none has its own.
    """

    config: TextConfig
    vocab_size: int
    pad_id: int
    compute: ComputeConfig = ComputeConfig()
    tokens: nn.Embed | None = None

    @nn.compact
    def __call__(self, ids: jax.Array, deterministic: bool = True) -> tuple[jax.Array, jax.Array]:
        width, length = self.config.transformer.width, ids.shape[1]
        mask = ids != self.pad_id
        table = self.tokens or token_embedding(self.vocab_size, width, self.compute.dtype, "tokens")
        states = table(ids)
        states += position_embedding(self, self.config.max_tokens, width)[:length].astype(states.dtype)
        read = Transformer(self.config.transformer, self.compute, name="transformer")(states, mask, deterministic)
        return read, mask


class ImageEncoder(nn.Module):
    """The pictures of products → (states float[B, L, D], mask bool[B, L]).

    Takes pixels uint8[B, I, H, W, 3] with bool[B, I] (a ViT over each picture; L = I·P), or region features
    float32[B, R, F] with bool[B, R] (a transformer over the regions; L = R). The mask is false for what a product
    lacks, so throughout for one without a picture. With `hides` there is a vector that stands for a hidden patch.
    """

    config: ImageConfig
    hides: bool = False
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        config, width, dtype = self.config, self.config.transformer.width, self.compute.dtype
        self.transformer = Transformer(config.transformer, self.compute)
        if config.stem == "regions":
            self.regions = nn.Dense(width, dtype=dtype)
        else:
            steps = range(len(config.stem_steps))
            self.stem = [nn.Dense(width >> (len(steps) - 1 - number), dtype=dtype) for number in steps]
            self.stem_norm = [nn.LayerNorm(dtype=dtype) for _ in steps[:-1]]
            self.positions = position_embedding(self, config.patches, width)
        if self.hides:
            self.hidden_patch = self.param("hidden_patch", nn.initializers.normal(stddev=0.02), (width,))

    def __call__(
        self, image: jax.Array, has_image: jax.Array, deterministic: bool = True
    ) -> tuple[jax.Array, jax.Array]:
        return self.read(self.patches(image), has_image, deterministic)

    def patches(self, image: jax.Array) -> jax.Array:
        """What the transformer reads: float[N, P, D] of N = B·I pictures, or [B, R, D] of regions; no positions."""
        if self.config.stem == "regions":
            return self.regions(image)
        pictures = pixels(image)
        return self._stem(pictures).reshape(pictures.shape[0], self.config.patches, -1)

    def read(
        self, patches: jax.Array, has_image: jax.Array, deterministic: bool, hidden: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """States and mask from the `patches` of pictures, those in hidden, bool[N, P] or bool[B, R], not shown."""
        if hidden is not None:
            patches = jnp.where(hidden[..., None], self.hidden_patch.astype(patches.dtype), patches)
        if self.config.stem == "regions":
            return self.transformer(patches, has_image, deterministic), has_image
        # Pictures of one product meet in the cross-modal layers; here each is read for itself.
        mask = jnp.broadcast_to(has_image.reshape(-1, 1), patches.shape[:2])
        states = self.transformer(patches + self.positions.astype(patches.dtype), mask, deterministic)
        batch = has_image.shape[0]
        return states.reshape(batch, -1, states.shape[-1]), mask.reshape(batch, -1)

    def _stem(self, cells: jax.Array) -> jax.Array:
        """Merge cells into patches step by step: float[N, H, W, 3] → float[N·P, D]."""
        for number, size in enumerate(self.config.stem_steps):
            merged, grid = merge_cells(cells, size)
            flat = self.stem[number](merged)
            if number < len(self.stem_norm):
                flat = nn.gelu(self.stem_norm[number](flat))
            cells = flat.reshape(*grid, -1)
        return flat


def pixels(image: jax.Array) -> jax.Array:
    """Each picture for itself, its colours from −1 to 1: uint8[B, I, H, W, 3] → float32[B·I, H, W, 3]."""
    return image.reshape(-1, *image.shape[2:]).astype(jnp.float32) / 127.5 - 1.0


def merge_cells(cells: jax.Array, size: int) -> tuple[jax.Array, tuple[int, int, int]]:
    """Join `size` × `size` neighbours: float[B, H, W, C] → (float[B·h·w, size²·C], (B, h, w))."""
    batch, height, width, channels = cells.shape
    grid = (batch, height // size, width // size)
    split = cells.reshape(batch, grid[1], size, grid[2], size, channels).transpose(0, 1, 3, 2, 4, 5)
    return split.reshape(-1, size * size * channels), grid
