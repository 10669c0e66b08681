"""Models. Each offers the same three calls, and training, evaluation, export and serving know only those."""

from __future__ import annotations

from typing import Protocol

import jax

from make_jax.config import Experiment
from make_jax.model.adaptation import ProductEmbedding
from make_jax.model.make import Batch, Make, Params


class RetrievalModel(Protocol):
    """What every model, ours or a baseline, can do. Parameters are passed in; nothing is kept between calls."""

    def init(self, rng: jax.Array) -> Params:
        """Fresh parameters, a nested dict of float32 arrays."""

    def encode_query(self, params: Params, query_ids: jax.Array) -> jax.Array:
        """int32[B, Q] → unit vectors float32[B, E]."""

    def encode_product(
        self,
        params: Params,
        title_ids: jax.Array,
        image: jax.Array | None = None,
        has_image: jax.Array | None = None,
    ) -> ProductEmbedding:
        """Titles int32[B, T] and pictures → unit vectors float32[B, E], modal weights [B, 2] and weights of pictures.

        Pictures are pixels uint8[B, I, H, W, 3] with bool[B, I], or region features float32[B, R, F] with bool[B, R];
        a model that reads titles only needs none.
        """

    def losses(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The training loss of a global batch and the scalars to log."""


def build_model(experiment: Experiment) -> RetrievalModel:
    """The model that an experiment asks for; its vocabulary size must be known."""
    return Make(experiment.model, experiment.objectives)


__all__ = ["ProductEmbedding", "RetrievalModel", "build_model"]
