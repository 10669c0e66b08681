"""Models. Each offers the same calls, and training, evaluation, export and serving know only those.

A model is functions of its parameters. What training carries from step to step beside them is its memory (past product
vectors, which are further negatives; an empty tuple where there is none): `losses` takes it and gives the next one, and
it is saved and restored with the parameters.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
from jax.sharding import NamedSharding

from make_jax.config import Experiment
from make_jax.model.adaptation import ProductEmbedding
from make_jax.model.make import Make, Params
from make_jax.model.outputs import Batch, Metrics


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
        side_ids: jax.Array | None = None,
    ) -> ProductEmbedding:
        """Titles int32[B, T] and pictures → unit vectors float32[B, E], modal weights [B, 2] and weights of pictures.

        Pictures are pixels uint8[B, I, H, W, 3] with bool[B, I], or region features float32[B, R, F] with bool[B, R];
        a model that reads titles only needs none. One with `side.columns` needs side_ids int32[B, C, L], too.
        """

    def init_memory(self) -> Any:
        """The memory before the first step: arrays [S, B, ...], whose second dimension is split as a batch is."""

    def losses(
        self, params: Params, memory: Any, batch: Batch, rng: jax.Array, layout: NamedSharding | None = None
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """The training loss of a global batch, then what to log and the memory after this batch.

        It is the sum of what `read` and `compare` find. Logged are scalars, and the `moments` of `objectives.spread`.
        `layout` says how the rows of a batch lie on a mesh.
        """

    def embed(self, params: Params, batch: Batch, rng: jax.Array) -> Any:
        """What `compare` needs of some rows of a batch: arrays float32[B, ...] in any tree, a row's from that row."""

    def read(
        self, params: Params, batch: Batch, rng: jax.Array, layout: NamedSharding | None = None
    ) -> tuple[Any, jax.Array, Metrics]:
        """What `embed` gives for the same rows and `rng`, then the part of the loss that looks at these rows alone."""

    def compare(
        self, params: Params, embedded: Any, memory: Any, batch: Batch, layout: NamedSharding | None = None
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """The part of the loss that compares all rows of a global batch; only scalars are read off the parameters."""


def build_model(experiment: Experiment) -> RetrievalModel:
    """The model that an experiment asks for; its vocabulary size must be known."""
    return Make(experiment)


__all__ = ["ProductEmbedding", "RetrievalModel", "build_model"]
