"""The MAKE model: separate query tower, title and picture towers, cross-modal layers, Modal Adaptation."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from make_jax.config import ComputeConfig, Experiment, ModelConfig, ObjectivesConfig
from make_jax.errors import UserError
from make_jax.model.adaptation import ModalAdaptation, ProductEmbedding, pool_modalities
from make_jax.model.contrasts import compare
from make_jax.model.cross_modal import CrossModalLayers, ProductStates
from make_jax.model.encoders import ImageEncoder, TextEncoder
from make_jax.model.heads import LossHeads
from make_jax.model.layers import masked_mean, token_embedding, unit_norm
from make_jax.model.losses import example_targets, read
from make_jax.model.outputs import Batch, Contrast, Embedded, Metrics, Outputs, Towers
from make_jax.model.side import SideEmbeddings
from make_jax.objectives.chunks import Chunks
from make_jax.objectives.memory import Memory, empty_memory

Params = Any


class MakeModule(nn.Module):
    """Parameters and forward passes of MAKE; `model.Make` wraps it in the interface of every model."""

    config: ModelConfig
    objectives: ObjectivesConfig
    vocab_size: int
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        config, objectives, compute = self.config, self.objectives, self.compute
        table = None
        if config.shared_tokens:
            table = self.tokens = token_embedding(self.vocab_size, config.query.transformer.width, compute.dtype)
        if config.shared_text:
            self.text = TextEncoder(config.text, self.vocab_size, config.pad_id, compute)
        else:
            self.query = TextEncoder(config.query, self.vocab_size, config.pad_id, compute, table)
        self.query_projection = nn.Dense(config.embedding, use_bias=False)
        if config.has_title and not config.shared_text:
            self.title = TextEncoder(config.title, self.vocab_size, config.pad_id, compute, table)
        if config.has_image:
            self.image = ImageEncoder(config.image, objectives.mpm > 0 or objectives.mpm_r > 0, compute)
        if config.modalities == "both":
            self.cross_modal = CrossModalLayers(config.fusion, config.title.transformer, compute)
        self.adaptation = ModalAdaptation(
            config.fusion, config.embedding, config.modalities, choose_images=config.image.images > 1
        )
        if config.side.columns:
            self.side = SideEmbeddings(config.side, config.embedding)
        self.heads = LossHeads(config, objectives, compute)
        # The scale is scale_max · sigmoid(scale_logit): bounded, with a gradient that never dies at the bound.
        share = objectives.scale / objectives.scale_max
        self.scale_logit = self.param("scale_logit", nn.initializers.constant(math.log(share / (1 - share))), ())
        if objectives.contrast == "sigmoid":
            self.contrast_bias = self.param("contrast_bias", nn.initializers.constant(objectives.bias), ())

    def _query_tower(self) -> TextEncoder:
        """The encoder of queries."""
        return self.text if self.config.shared_text else self.query

    def _title_tower(self) -> TextEncoder:
        """The encoder of titles, which is that of queries where the two share one."""
        return self.text if self.config.shared_text else self.title

    def encode_query(self, query_ids: jax.Array, deterministic: bool = True) -> jax.Array:
        """Unit vectors of queries: int32[B, Q] → float32[B, E]."""
        return self._embed_query(*self._query_tower()(query_ids, deterministic))

    def _embed_query(self, states: jax.Array, mask: jax.Array) -> jax.Array:
        return unit_norm(self.query_projection(masked_mean(states, mask)))

    def encode_product(
        self,
        title_ids: jax.Array,
        image: jax.Array | None = None,
        has_image: jax.Array | None = None,
        side_ids: jax.Array | None = None,
        deterministic: bool = True,
    ) -> ProductEmbedding:
        """Unit vectors and weights of products: titles int32[B, T], pictures as `ImageEncoder` takes them, and side_ids
        int32[B, C, L], see `SideEmbeddings`."""
        towers = self._product_states(title_ids, image, has_image, deterministic)
        return self._embed_product(self._fuse(towers, deterministic), has_image, side_ids, deterministic)

    def _embed_product(
        self, fused: ProductStates, has_image: jax.Array | None, side_ids: jax.Array | None, deterministic: bool
    ) -> ProductEmbedding:
        images = 1
        if has_image is not None and self.config.has_image and self.config.image.stem != "regions":
            images = has_image.shape[1]
        seen = self.adaptation(pool_modalities(fused, images))
        if not self.config.side.columns:
            return seen
        if side_ids is None:
            raise ValueError(f"this model knows products by {', '.join(self.config.side.columns)}; give side_ids")
        return self.side(seen, side_ids, deterministic)

    def _product_states(
        self, title_ids: jax.Array, image: jax.Array | None, has_image: jax.Array | None, deterministic: bool
    ) -> ProductStates:
        """What each tower makes of its side; a tower that does not exist, of nothing."""
        config, size = self.config, title_ids.shape[0]
        if config.has_title:
            title, title_mask = self._title_tower()(title_ids, deterministic)
        else:
            title, title_mask = _nothing(size, config.title.transformer.width)
        if config.has_image:
            if image is None or has_image is None:
                raise ValueError("this model reads pictures; give image and has_image")
            picture, picture_mask = self.image(image, has_image, deterministic)
        else:
            picture, picture_mask = _nothing(size, config.image.transformer.width)
        if not deterministic and config.modalities == "both":
            title_mask, picture_mask = self._drop_modality(title_mask, picture_mask)
        return ProductStates(title, title_mask, picture, picture_mask)

    def _fuse(self, towers: ProductStates, deterministic: bool) -> ProductStates:
        return self.cross_modal(towers, deterministic) if self.config.modalities == "both" else towers

    def _drop_modality(self, title_mask: jax.Array, picture_mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Hide one modality of a share of the products that have both."""
        rate, pictures = self.config.fusion.modality_dropout, self.config.fusion.dropped_pictures
        if rate == 0:
            return title_mask, picture_mask
        draw = jax.random.uniform(self.make_rng("dropout"), (title_mask.shape[0], 1))
        both = jnp.any(title_mask, axis=1, keepdims=True) & jnp.any(picture_mask, axis=1, keepdims=True)
        no_title, no_picture = draw < rate * (1 - pictures), draw > 1 - rate * pictures
        return title_mask & ~(both & no_title), picture_mask & ~(both & no_picture)

    def _outputs(self, batch: Batch) -> Outputs:
        """Everything that the objectives look at, of the pairs of a batch, in training."""
        query_states, query_mask = self._query_tower()(batch["query_ids"], False)
        has_image = batch.get("has_image")
        towers = self._product_states(batch["title_ids"], batch.get("image"), has_image, False)
        fused = self._fuse(towers, False)
        embedded = Embedded(
            queries=self._embed_query(query_states, query_mask),
            products=self._embed_product(fused, has_image, batch.get("side_ids"), False),
            negatives=self._embed_negatives(batch),
            further_queries=self._embed_further(batch),
        )
        return Outputs(embedded, (query_states, query_mask), towers, fused)

    def _embed_further(self, batch: Batch) -> jax.Array | None:
        """The further queries of a batch, encoded as B·K queries: float32[B, K, E]; None where it has none."""
        if "further_query_ids" not in batch:
            return None
        ids = batch["further_query_ids"]
        encoded = self.encode_query(ids.reshape(-1, ids.shape[-1]), False)
        return encoded.reshape(*ids.shape[:2], -1)

    def _embed_negatives(self, batch: Batch) -> ProductEmbedding | None:
        """The hard negatives of a batch, encoded as a batch of B·H products: [B, H, ...]; None where it has none."""
        if self.objectives.hard_negatives == 0 or "negative_key" not in batch:
            return None
        names = ("title_ids", "image", "has_image", *(("side_ids",) if self.config.side.columns else ()))
        flat = {name: batch[f"negative_{name}"] for name in names}
        flat = {name: array.reshape(-1, *array.shape[2:]) for name, array in flat.items()}
        encoded = self.encode_product(**flat, deterministic=False)
        shape = batch["negative_key"].shape
        return ProductEmbedding(*(array.reshape(*shape, *array.shape[1:]) for array in encoded))

    def _contrast(self) -> Contrast:
        return Contrast(
            scale=self.objectives.scale_max * jax.nn.sigmoid(self.scale_logit),
            bias=self.contrast_bias if self.objectives.contrast == "sigmoid" else jnp.zeros(()),
        )

    def embed(self, batch: Batch) -> Embedded:
        """The vectors of a batch in training; needs the random stream "dropout"."""
        return self._outputs(batch).embedded

    def read(self, batch: Batch, layout: NamedSharding | None) -> tuple[Embedded, jax.Array, Metrics]:
        """`embed`, with equal randomness, and `losses.read`; needs the streams "dropout" and "objectives"."""
        title = self._title_tower() if self.config.has_title else None
        towers = Towers(self._query_tower(), title, self.image if self.config.has_image else None)
        outputs, drawn = self._outputs(batch), self.make_rng("objectives")
        given = towers, self.heads, batch, drawn, self._chunks(layout)
        return outputs.embedded, *read(self.objectives, outputs, self._contrast(), *given)

    def compare(
        self, embedded: Embedded, batch: Batch, memory: Memory | None, layout: NamedSharding | None
    ) -> tuple[jax.Array, Metrics, Memory | None]:
        """See `contrasts.compare`."""
        return compare(self.objectives, embedded, self._contrast(), batch, memory, self._chunks(layout))

    def losses(
        self, batch: Batch, memory: Memory | None, layout: NamedSharding | None
    ) -> tuple[jax.Array, Metrics, Memory | None]:
        """`read` and `compare` of one batch."""
        embedded, loss, metrics = self.read(batch, layout)
        further, found, memory = self.compare(embedded, batch, memory, layout)
        return loss + further, metrics | found, memory

    def _chunks(self, layout: NamedSharding | None) -> Chunks:
        return Chunks(self.objectives.chunk_size, layout)


def _nothing(size: int, width: int) -> tuple[jax.Array, jax.Array]:
    """States and mask of sequences without positions."""
    return jnp.zeros((size, 0, width)), jnp.zeros((size, 0), bool)


class Make:
    """MAKE with the interface that training, evaluation, export and serving know: see `model.RetrievalModel`."""

    def __init__(self, experiment: Experiment) -> None:
        config = experiment.model
        if config.vocab_size is None:
            raise UserError("model.vocab_size is not set; it is the number of entries of the tokenizer")
        self.config, self.objectives = config, experiment.objectives
        self._batch_size = experiment.training.batch_size
        self._product_queries = experiment.data.product_queries
        self.module = MakeModule(config, experiment.objectives, config.vocab_size, experiment.compute)

    def init(self, rng: jax.Array) -> Params:
        """Fresh float32 parameters."""
        token = int(self.config.pad_id == 0)  # any but padding
        batch = {
            "query_ids": jnp.full((1, self.config.query.max_tokens), token, jnp.int32),
            "title_ids": jnp.full((1, self.config.title.max_tokens), token, jnp.int32),
            **self._example_pictures(),
            **self._example_side(),
            **example_targets(self.config),
        }

        @jax.jit  # which leaves out what the losses compute, and all else but the parameters
        def fresh(rng: jax.Array) -> Params:
            return self.module.init({"params": rng, **_streams(rng)}, batch, None, None, method="losses")["params"]

        return fresh(rng)

    def _example_pictures(self) -> Batch:
        image = self.config.image
        if image.stem == "regions":
            return {"image": jnp.zeros((1, 1, image.region_width or 1)), "has_image": jnp.ones((1, 1), bool)}
        return {
            "image": jnp.zeros((1, 1, image.height, image.width, 3), jnp.uint8),
            "has_image": jnp.ones((1, 1), bool),
        }

    def _example_side(self) -> Batch:
        columns = self.config.side.columns
        return {"side_ids": jnp.zeros((1, len(columns), 1), jnp.int32)} if columns else {}

    def init_memory(self) -> Memory | tuple[()]:
        """A memory bank with nothing in it; () where objectives.memory_size is 0."""
        slots = self.objectives.memory_size // self._batch_size
        if slots == 0:
            return ()
        return empty_memory(slots, self._batch_size, self.config.embedding, self._product_queries)

    def _apply(self, params: Params, *inputs: Any, **options: Any) -> Any:
        return self.module.apply({"params": params}, *inputs, **options)

    def encode_query(self, params: Params, query_ids: jax.Array) -> jax.Array:
        """Unit vectors of queries: int32[B, Q] → float32[B, E]."""
        encoded: jax.Array = self._apply(params, query_ids, method="encode_query")
        return encoded

    def encode_product(
        self,
        params: Params,
        title_ids: jax.Array,
        image: jax.Array | None = None,
        has_image: jax.Array | None = None,
        side_ids: jax.Array | None = None,
    ) -> ProductEmbedding:
        """See `MakeModule.encode_product`."""
        encoded: ProductEmbedding = self._apply(params, title_ids, image, has_image, side_ids, method="encode_product")
        return encoded

    def embed(self, params: Params, batch: Batch, rng: jax.Array) -> Embedded:
        """The vectors of some rows of a batch, as `read` makes them of the same rows and `rng`."""
        embedded: Embedded = self._apply(params, batch, method="embed", rngs=_streams(rng))
        return embedded

    def read(
        self, params: Params, batch: Batch, rng: jax.Array, layout: NamedSharding | None = None
    ) -> tuple[Embedded, jax.Array, Metrics]:
        """The vectors of some rows, and the weighted sum of the objectives that look at these rows alone."""
        read: tuple[Embedded, jax.Array, Metrics] = self._apply(
            params, batch, layout, method="read", rngs=_streams(rng)
        )
        return read

    def compare(
        self, params: Params, embedded: Embedded, memory: Any, batch: Batch, layout: NamedSharding | None = None
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """The weighted sum of the objectives that compare all rows of a global batch; as `losses` otherwise."""
        return _with_memory(self._apply(params, embedded, batch, memory or None, layout, method="compare"))

    def losses(
        self, params: Params, memory: Any, batch: Batch, rng: jax.Array, layout: NamedSharding | None = None
    ) -> tuple[jax.Array, tuple[Metrics, Any]]:
        """The weighted sum of the objectives on a global batch; what to log, float32 scalars; the memory after it."""
        return _with_memory(self._apply(params, batch, memory or None, layout, method="losses", rngs=_streams(rng)))


def _with_memory(found: tuple[jax.Array, Metrics, Memory | None]) -> tuple[jax.Array, tuple[Metrics, Any]]:
    loss, metrics, memory = found
    return loss, (metrics, () if memory is None else memory)


def _streams(rng: jax.Array) -> dict[str, jax.Array]:
    return {"dropout": rng, "objectives": jax.random.fold_in(rng, 1)}
