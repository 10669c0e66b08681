"""Mined hard negatives as further columns of a contrast.

Qu et al. 2021, "RocketQA" (arXiv 2010.08191); Xiong et al. 2021, "ANCE" (arXiv 2007.00808).
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from make_jax.objectives.further import NONE, Further


def hard_negatives(
    vectors: jax.Array,
    present: jax.Array,
    negative_key: jax.Array,
    negative_queries: jax.Array,
    weight: float = 1.0,
) -> Further:
    """The negatives of all pairs as negatives of every query; they came with none.

    Args:
      vectors: float[B, H, E], unit length, with gradient.
      present: bool[B, H]; what is not, is nobody's negative.
      negative_key: int32[B, H], equal to the products' keys for equal products; -1 for none.
      negative_queries: int32[B, H, M], query keys under which each was clicked, padded with -1.
      weight: w > 0; each counts w times in the denominator of a softmax.
    """
    return Further(
        vectors,
        jnp.where(present, negative_key, NONE),
        jnp.full_like(negative_key, NONE),
        negative_queries,
        jnp.full(present.shape, -math.log(weight)),
    )
