"""Small models of every sort of fusion, with parameters that are no longer fresh, and batches with holes."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import jax
import numpy as np

from make_jax.config import (
    Experiment,
    FusionConfig,
    ImageConfig,
    ModelConfig,
    TextConfig,
    TransformerConfig,
)
from make_jax.model import ProductEmbedding, build_model

KINDS: dict[str, dict[str, Any]] = {
    "modal_adaptation": {},
    "states_gate": {"gate_input": "states", "text_weight": 0.7},
    "mean": {"kind": "mean", "text_weight": 0.3},
    "concat": {"kind": "concat", "layers": 0},
    "vector_gate": {"kind": "vector_gate"},
    "joint": {"kind": "joint"},
    "cross_attention": {"kind": "cross_attention", "layers": 2},
}
ROWS, IMAGES = 5, 2
_SMALL = TransformerConfig(layers=1, width=8, heads=2)


def model_config(max_images: int = IMAGES, stem: str = "patch", **changes: Any) -> ModelConfig:
    fusion = FusionConfig(**{"gate_width": 6, **changes.pop("fusion", {})})
    return ModelConfig(
        vocab_size=30,
        embedding=6,
        query=TextConfig(max_tokens=4, transformer=_SMALL),
        title=TextConfig(max_tokens=5, transformer=_SMALL),
        image=ImageConfig(
            height=8, width=4, patch=4, stem=stem, max_images=max_images, region_width=3, transformer=_SMALL
        ),
        fusion=fusion,
        **changes,
    )


def random_params(init: Callable[..., Any], *inputs: Any, seed: int = 0) -> Any:
    """Parameters of the shapes that `init(key, *inputs)` gives, without the seconds that compiling it takes."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda leaf: (0.4 * rng.normal(size=leaf.shape)).astype(np.float32), shapes)


class Compiled:
    """A model and its parameters, all random, so that no gate is still at its start."""

    def __init__(self, config: ModelConfig) -> None:
        self.model = build_model(Experiment("test", model=config))
        self.params = random_params(self.model.init)
        self._encode = jax.jit(self.model.encode_product)

    def __call__(self, batch: dict[str, np.ndarray]) -> ProductEmbedding:
        encoded = self._encode(self.params, batch["title_ids"], batch.get("image"), batch.get("has_image"))
        return ProductEmbedding(*map(np.asarray, encoded))


@lru_cache
def compiled(name: str) -> Compiled:
    return Compiled(model_config(fusion=KINDS[name]))


def batch(seed: int, has_title: np.ndarray, has_image: np.ndarray) -> dict[str, np.ndarray]:
    """Random titles of random lengths and pictures, none where the masks, bool[B] and bool[B, I], are false."""
    rng = np.random.default_rng(seed)
    titles = rng.integers(1, 30, (len(has_title), 5)).astype(np.int32)
    titles[np.arange(5) >= rng.integers(1, 6, len(titles))[:, None]] = 0
    titles[~has_title] = 0
    image = rng.integers(0, 256, (*has_image.shape, 8, 4, 3)).astype(np.uint8)
    return {"title_ids": titles, "image": image, "has_image": has_image}
