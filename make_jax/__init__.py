"""make_jax: pre-train, evaluate and serve MAKE-style text-to-multimodal product retrieval on JAX."""

from __future__ import annotations

__version__ = "0.1.0"
