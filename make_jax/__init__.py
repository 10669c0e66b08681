"""make_jax: train, evaluate and search with MAKE-style text-to-multimodal product retrieval on JAX."""

from __future__ import annotations

__version__ = "0.1.0"
