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


class Outputs(NamedTuple):
    """What the encoders make of a batch.

    queries float32[B, E]; query_states; products; towers and fused, the states before and after the cross-modal layers;
    scale and bias of the contrasts, scalars; negatives, the embeddings of B·H hard negatives, None without any.
    """

    queries: jax.Array
    query_states: Segment
    products: ProductEmbedding
    towers: ProductStates
    fused: ProductStates
    scale: jax.Array
    bias: jax.Array
    negatives: ProductEmbedding | None = None


class Towers(NamedTuple):
    """The single-modality towers, for a second look at texts and pictures of which something is hidden.

    A model of one modality lacks the other's tower.
    """

    query: TextEncoder
    title: TextEncoder | None
    image: ImageEncoder | None
