"""Modal Adaptation and its alternatives: one product vector from a title and pictures.

Modal Adaptation (MAKE, abstract) gives text and picture a suitable weight *per product*. It never sees the query,
or product vectors could not be indexed. The form of the gate is our own design: both modalities are brought to
unit length first, so that the weights alone say how much each counts, and the gate also sees where they agree.
Several pictures of a product become one by the same means: a weight for each, from what it shows and the title says.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from make_jax.config import FusionConfig
from make_jax.model.cross_modal import ProductStates
from make_jax.model.layers import EPSILON, masked_mean, unit_norm


class ProductEmbedding(NamedTuple):
    """What the product tower returns; all float32, rows of unit length (zero where there is nothing to encode).

    vector [B, E]; weights [B, 2] (title, picture; they sum to 1, a missing modality has exactly 0); title [B, E] and
    picture [B, E], the vectors of each modality alone; image_weights [B, I], the share of each picture in `picture`
    (they sum to 1 for a product that has pictures, a missing picture has exactly 0).

    Where no gate gives one weight to all of a vector, the weights are measured: the lengths of the parts that the
    vector is the sum of, as shares. For a scalar gate the two are the same.
    """

    vector: jax.Array
    weights: jax.Array
    title: jax.Array
    picture: jax.Array
    image_weights: jax.Array


class Pooled(NamedTuple):
    """Means over the positions of a product's title, float32[B, D], and of each picture, float32[B, I, D], 0 where
    there is none, and over how many: float32[B] and float32[B, I]."""

    title: jax.Array
    pictures: jax.Array
    title_size: jax.Array
    picture_sizes: jax.Array


class ModalAdaptation(nn.Module):
    """Make one vector of the pooled states of each product; `choose_images` says that there may be several pictures."""

    config: FusionConfig
    embedding: int
    modalities: Literal["both", "title", "image"] = "both"
    choose_images: bool = False

    @nn.compact
    def __call__(self, pooled: Pooled) -> ProductEmbedding:
        shown = pooled.picture_sizes > 0
        present = jnp.stack([pooled.title_size > 0, jnp.any(shown, axis=1)], axis=1)
        if self.modalities == "both" and self.config.kind == "joint":
            parts = self._joint_parts(pooled)
            pictures, image_weights = parts[:, 1:], shares_of_length(parts[:, 1:], shown)
            return _summed(parts[:, 0], jnp.sum(pictures, axis=1), present, image_weights)
        title = self._title(pooled)
        picture, image_weights = self._picture(pooled, title, shown)
        # A projection has no bias, so a missing title is 0 already, but for a tower that does not exist.
        title, picture = jnp.where(present[:, :1], title, 0.0), jnp.where(present[:, 1:], picture, 0.0)
        if self.modalities != "both":
            return ProductEmbedding(title + picture, present.astype(jnp.float32), title, picture, image_weights)
        if self.config.kind == "concat":
            return _summed(title, picture, present, image_weights)
        if self.config.kind == "vector_gate":
            weights = masked_softmax(self._logits(title, picture, pooled, image_weights), present[:, None, :])
            parts = weights * jnp.stack([title, picture], axis=-1)
            vector = unit_norm(jnp.sum(parts, axis=-1))
            return ProductEmbedding(
                vector, shares_of_length(jnp.moveaxis(parts, -1, 1), present), title, picture, image_weights
            )
        weights = masked_softmax(self._logits(title, picture, pooled, image_weights)[:, 0], present)
        vector = unit_norm(weights[:, :1] * title + weights[:, 1:] * picture)
        return ProductEmbedding(vector, weights, title, picture, image_weights)

    def _joint_parts(self, pooled: Pooled) -> jax.Array:
        """What title and pictures each give to the projected mean of all states: float32[B, 1+I, E]."""
        means = jnp.concatenate([pooled.title[:, None], pooled.pictures], axis=1)
        sizes = jnp.concatenate([pooled.title_size[:, None], pooled.picture_sizes], axis=1)
        shares = sizes / jnp.maximum(jnp.sum(sizes, axis=1, keepdims=True), 1.0)
        return shares[..., None] * nn.Dense(self.embedding, use_bias=False, name="project_product")(means)

    def _project(self, name: str, states: jax.Array) -> jax.Array:
        """To E dimensions, and to unit length; concatenation takes the vectors as long as they are."""
        projected = nn.Dense(self.embedding, use_bias=False, name=name)(states)
        return projected if self._concat else unit_norm(projected)

    @property
    def _concat(self) -> bool:
        return self.modalities == "both" and self.config.kind == "concat"

    def _title(self, pooled: Pooled) -> jax.Array:
        if self.modalities == "image":
            return jnp.zeros((pooled.title.shape[0], self.embedding))
        return self._project("project_title", pooled.title)

    def _picture(self, pooled: Pooled, title: jax.Array, shown: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The pictures of each product as one: float32[B, E], and their weights float32[B, I]."""
        if self.modalities == "title":
            return jnp.zeros_like(title), jnp.zeros(shown.shape)
        pictures = self._project("project_picture", pooled.pictures)
        weights = masked_softmax(self._image_logits(title, pictures), shown)
        picture = jnp.sum(weights[..., None] * pictures, axis=1)
        return picture if self._concat else unit_norm(picture), weights

    def _image_logits(self, title: jax.Array, pictures: jax.Array) -> jax.Array:
        """The gate's opinion of each picture: float32[B, I]."""
        if not self.choose_images or (self.modalities == "both" and self.config.kind == "mean"):
            return jnp.zeros(pictures.shape[:2])
        pictures = unit_norm(pictures)
        seen = [pictures]
        if self.modalities == "both":
            words = jnp.broadcast_to(unit_norm(title)[:, None], pictures.shape)
            seen = [words, pictures, words * pictures]
        return self._gate("image_gate", jnp.concatenate(seen, axis=-1))[..., 0]

    def _logits(self, title: jax.Array, picture: jax.Array, pooled: Pooled, image_weights: jax.Array) -> jax.Array:
        """The gate's opinion of title and picture: float32[B, 1, 2], or [B, E, 2] for a gate per dimension."""
        lead = math.log(self.config.text_weight / (1 - self.config.text_weight))
        rows = self.embedding if self.config.kind == "vector_gate" else 1
        start = jnp.tile(jnp.asarray([lead, 0.0]), rows)
        if self.config.kind == "mean":
            return jnp.broadcast_to(start, (title.shape[0], 1, 2))
        if self.config.gate_input == "states":
            states = pooled.title, jnp.sum(image_weights[..., None] * pooled.pictures, axis=1)
            seen = [*states, title * picture]
        else:
            seen = [title, picture, title * picture]
        return self._gate("gate", jnp.concatenate(seen, axis=-1), start).reshape(-1, rows, 2)

    def _gate(self, name: str, seen: jax.Array, start: jax.Array | None = None) -> jax.Array:
        """A network that answers `start` until it has learned better; one opinion without a start is of each picture,
        where only differences count."""
        # Unit vectors have entries of size 1/sqrt(E); the norm brings the gate's input back to size 1.
        normed = nn.LayerNorm(name=f"{name}_norm")(seen)
        hidden = nn.gelu(nn.Dense(self.config.gate_width, name=f"{name}_hidden")(normed))
        # Zeros: the gate starts as a fixed mean, a hard baseline, and departs from it where that pays.
        zeros = nn.initializers.zeros
        if start is None:
            return nn.Dense(1, use_bias=False, kernel_init=zeros, name=name)(hidden)
        return nn.Dense(len(start), kernel_init=zeros, bias_init=lambda *_: start, name=name)(hidden)


def _summed(title: jax.Array, picture: jax.Array, present: jax.Array, image_weights: jax.Array) -> ProductEmbedding:
    """The sum of two parts of any length, float32[B, E] each, with measured weights."""
    weights = shares_of_length(jnp.stack([title, picture], axis=1), present)
    return ProductEmbedding(unit_norm(title + picture), weights, unit_norm(title), unit_norm(picture), image_weights)


def shares_of_length(parts: jax.Array, present: jax.Array) -> jax.Array:
    """How much of their summed lengths each part has, exactly 0 where absent: float[B, n, E], bool[B, n] → [B, n]."""
    # The epsilon keeps the gradient of a length of 0 finite, as in `unit_norm`.
    lengths = jnp.where(present, jnp.sqrt(jnp.sum(parts * parts, axis=-1) + EPSILON**2), 0.0)
    shares = lengths / jnp.maximum(jnp.sum(lengths, axis=-1, keepdims=True), EPSILON)
    # A length divided by itself may come out as 0.9999999.
    return jnp.where(jnp.sum(present, axis=-1, keepdims=True) == 1, present.astype(jnp.float32), shares)


def masked_softmax(logits: jax.Array, present: jax.Array) -> jax.Array:
    """Softmax over the last axis where `present` is true, exactly 0 elsewhere (all 0 where none is).

    float[..., n], bool[..., n] → float32[..., n].
    """
    logits = logits.astype(jnp.float32)
    peak = jnp.max(jnp.where(present, logits, -jnp.inf), axis=-1, keepdims=True)
    parts = jnp.where(present, jnp.exp(jnp.where(present, logits - peak, 0.0)), 0.0)
    return parts / jnp.maximum(jnp.sum(parts, axis=-1, keepdims=True), 1e-30)


def pool_modalities(states: ProductStates, images: int) -> Pooled:
    """Masked mean over the title and over each of `images` equally long parts of the picture states."""
    batch, length, width = states.picture.shape
    parts = states.picture.reshape(batch * images, length // images, width)
    masks = states.picture_mask.reshape(batch * images, -1)
    return Pooled(
        masked_mean(states.title, states.title_mask),
        masked_mean(parts, masks).reshape(batch, images, width),
        jnp.sum(states.title_mask, axis=1, dtype=jnp.float32),
        jnp.sum(masks, axis=1, dtype=jnp.float32).reshape(batch, images),
    )
