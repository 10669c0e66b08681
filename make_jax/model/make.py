"""The MAKE model: separate query tower, title and picture towers, cross-modal layers, Modal Adaptation."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import ModelConfig, ObjectivesConfig
from make_jax.errors import UserError
from make_jax.model.adaptation import CrossModalLayers, ModalAdaptation, ProductEmbedding, pool_modalities
from make_jax.model.encoders import ImageEncoder, TextEncoder
from make_jax.model.layers import masked_mean, unit_norm
from make_jax.objectives.contrastive import am_softmax, false_negatives

Params = Any
Batch = dict[str, jax.Array]


class MakeModule(nn.Module):
    """Parameters and forward passes of MAKE; `model.Make` wraps it in the interface of every model."""

    config: ModelConfig
    initial_scale_logit: float
    vocab_size: int

    def setup(self) -> None:
        config = self.config
        self.query = TextEncoder(config.query, self.vocab_size, config.pad_id)
        self.query_projection = nn.Dense(config.embedding, use_bias=False)
        self.title = TextEncoder(config.title, self.vocab_size, config.pad_id)
        self.image = ImageEncoder(config.image)
        self.cross_modal = CrossModalLayers(config.fusion.layers, config.title.transformer)
        self.adaptation = ModalAdaptation(config.fusion, config.embedding)
        # The scale is scale_max · sigmoid(scale_logit): bounded, with a gradient that never dies at the bound.
        self.scale_logit = self.param("scale_logit", nn.initializers.constant(self.initial_scale_logit), ())

    def encode_query(self, query_ids: jax.Array, deterministic: bool = True) -> jax.Array:
        """Unit vectors of queries: int32[B, Q] → float32[B, E]."""
        states, mask = self.query(query_ids, deterministic)
        return unit_norm(self.query_projection(masked_mean(states, mask)))

    def encode_product(
        self, title_ids: jax.Array, image: jax.Array, has_image: jax.Array, deterministic: bool = True
    ) -> ProductEmbedding:
        """Unit vectors and weights of products: titles int32[B, T] and pictures as `ImageEncoder` takes them."""
        title, title_mask = self.title(title_ids, deterministic)
        picture, picture_mask = self.image(image, has_image, deterministic)
        if not deterministic:
            title_mask, picture_mask = self._drop_modality(title_mask, picture_mask)
        title, picture = self.cross_modal(title, title_mask, picture, picture_mask, deterministic)
        return self.adaptation(*pool_modalities(title, title_mask, picture, picture_mask))

    def _drop_modality(self, title_mask: jax.Array, picture_mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Hide one modality of a share of the products that have both."""
        rate = self.config.fusion.modality_dropout
        if rate == 0:
            return title_mask, picture_mask
        draw = jax.random.uniform(self.make_rng("dropout"), (title_mask.shape[0], 1))
        both = jnp.any(title_mask, axis=1, keepdims=True) & jnp.any(picture_mask, axis=1, keepdims=True)
        return title_mask & ~(both & (draw < rate / 2)), picture_mask & ~(both & (draw > 1 - rate / 2))

    def __call__(
        self, batch: dict[str, jax.Array], deterministic: bool = True
    ) -> tuple[jax.Array, ProductEmbedding, jax.Array]:
        """Both towers on the pairs of a batch: (queries [B, E], products, logit of the scale)."""
        queries = self.encode_query(batch["query_ids"], deterministic)
        products = self.encode_product(batch["title_ids"], batch["image"], batch["has_image"], deterministic)
        return queries, products, self.scale_logit


class Make:
    """MAKE with the interface that training, evaluation, export and serving know: see `model.RetrievalModel`."""

    def __init__(self, config: ModelConfig, objectives: ObjectivesConfig) -> None:
        if config.vocab_size is None:
            raise UserError("model.vocab_size is not set; it is the number of entries of the tokenizer")
        self.config, self.objectives = config, objectives
        share = objectives.scale / objectives.scale_max
        self.module = MakeModule(config, math.log(share / (1 - share)), config.vocab_size)

    def init(self, rng: jax.Array) -> Params:
        """Fresh float32 parameters."""
        token = int(self.config.pad_id == 0)  # any but padding
        batch = {
            "query_ids": jnp.full((1, self.config.query.max_tokens), token, jnp.int32),
            "title_ids": jnp.full((1, self.config.title.max_tokens), token, jnp.int32),
            **self._example_pictures(),
        }
        return self.module.init(rng, batch)["params"]

    def _example_pictures(self) -> Batch:
        image = self.config.image
        if image.stem == "regions":
            return {"image": jnp.zeros((1, 1, image.region_width or 1)), "has_image": jnp.ones((1, 1), bool)}
        return {
            "image": jnp.zeros((1, 1, image.height, image.width, 3), jnp.uint8),
            "has_image": jnp.ones((1, 1), bool),
        }

    def _apply(self, params: Params, *inputs: Any, **options: Any) -> Any:
        return self.module.apply({"params": params}, *inputs, **options)

    def encode_query(self, params: Params, query_ids: jax.Array) -> jax.Array:
        """Unit vectors of queries: int32[B, Q] → float32[B, E]."""
        encoded: jax.Array = self._apply(params, query_ids, method="encode_query")
        return encoded

    def encode_product(
        self, params: Params, title_ids: jax.Array, image: jax.Array, has_image: jax.Array
    ) -> ProductEmbedding:
        """Unit vectors and weights of products: titles int32[B, T] and pictures as `ImageEncoder` takes them."""
        encoded: ProductEmbedding = self._apply(params, title_ids, image, has_image, method="encode_product")
        return encoded

    def losses(self, params: Params, batch: Batch, rng: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The weighted sum of the objectives on a global batch, and what to log; all float32 scalars."""
        queries, products, scale_logit = self._apply(params, batch, deterministic=False, rngs={"dropout": rng})
        config = self.objectives
        scale = config.scale_max * jax.nn.sigmoid(scale_logit)
        excluded = false_negatives(batch["query_key"], batch["product_key"], batch["product_queries"])
        shown = products.weights > 0  # which modalities a product has, and did not lose to modality dropout
        parts = {
            name: am_softmax(queries, vectors, excluded, present, scale, config.margin)
            for name, weight, vectors, present in (
                ("qic", config.qic, products.vector, jnp.any(shown, axis=1)),
                ("query_title", config.query_title, products.title, shown[:, 0]),
                ("query_image", config.query_image, products.picture, shown[:, 1]),
            )
            if weight > 0
        }
        loss = sum((getattr(config, name) * value for name, value in parts.items()), start=jnp.zeros(()))
        return loss, {
            **parts,
            "scale": scale,
            "weight_text": jnp.mean(products.weights[:, 0]),
            "masked_share": jnp.mean(excluded.astype(jnp.float32)),
        }
