"""What a model makes of a batch, which its objectives are about."""

from __future__ import annotations

from typing import NamedTuple

import jax

from make_jax.model.adaptation import ProductEmbedding
from make_jax.model.cross_modal import ProductStates
from make_jax.model.encoders import ImageEncoder, TextEncoder
from make_jax.model.heads import Segment

Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Embedded(NamedTuple):
    """What the contrasts compare: all that is needed of a row when it is compared with the rest of the batch.

    queries float32[B, E]; products; negatives, the embeddings [B, H, ...] of the hard negatives, and further_queries
    float32[B, K, E], None without any. Every array is float32[B, ...].
    """

    queries: jax.Array
    products: ProductEmbedding
    negatives: ProductEmbedding | None = None
    further_queries: jax.Array | None = None


class Outputs(NamedTuple):
    """What the encoders make of a batch.

    embedded; query_states; towers and fused, the states of products before and after the cross-modal layers.
    """

    embedded: Embedded
    query_states: Segment
    towers: ProductStates
    fused: ProductStates


class Contrast(NamedTuple):
    """The learned scalars of all contrasts: scale, the inverse temperature, and bias, 0 but for the sigmoid."""

    scale: jax.Array
    bias: jax.Array


class Towers(NamedTuple):
    """The single-modality towers, for a second look at texts and pictures of which something is hidden.

    A model of one modality lacks the other's tower.
    """

    query: TextEncoder
    title: TextEncoder | None
    image: ImageEncoder | None
