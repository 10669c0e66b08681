"""Masked-language modelling (MLM; Devlin et al. 2019) over the hidden tokens only."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

_GROUP = 16  # rows that share room for their hidden tokens


def room(rows: int, tokens: int, share: float) -> int:
    """How many hidden tokens of so many rows are predicted at most: half as many again as are expected, and one a row.

    A text always has a hidden word, however short it is.
    """
    return min(rows * tokens, math.ceil(1.5 * share * rows * tokens) + rows)


def hidden_tokens(targets: jax.Array, share: float) -> tuple[jax.Array, jax.Array]:
    """Where the hidden tokens are, in a shape that does not depend on how many there are.

    Rows are taken in groups of a fixed size, each with `room` for its tokens, so that a batch that is split over
    devices stays split; a group with more of them loses its last ones.

    Args:
      targets: int32[B, L], the hidden token, -1 where none is.
      share: of all words, the share that is hidden.

    Returns:
      places int32[G, N] in the B/G rows of a group, end to end, and targets int32[G, N], -1 where a place is not used.
    """
    rows, length = targets.shape
    grouped = targets.reshape(-1, math.gcd(rows, _GROUP) * length)
    _, places = jax.lax.top_k((grouped >= 0).astype(jnp.int32), room(math.gcd(rows, _GROUP), length, share))
    return places, jnp.take_along_axis(grouped, places, axis=1)


def take_states(states: jax.Array, places: jax.Array) -> jax.Array:
    """The states at the places of `hidden_tokens`: float[B, L, D], int32[G, N] → float[G, N, D]."""
    grouped = states.reshape(places.shape[0], -1, states.shape[-1])
    return jnp.take_along_axis(grouped, places[..., None], axis=1)


def token_loss(logits: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy over the vocabulary, mean over the hidden tokens, and the share of them that is guessed.

    float[..., V], int32[...] (-1 for nothing to predict) → two float32 scalars.
    """
    asked = targets >= 0
    wanted = jnp.maximum(targets, 0)
    log_likelihood = jnp.take_along_axis(jax.nn.log_softmax(logits), wanted[..., None], axis=-1)[..., 0]
    count = jnp.maximum(jnp.sum(asked), 1)
    right = jnp.argmax(logits, axis=-1) == targets
    return -jnp.sum(jnp.where(asked, log_likelihood, 0.0)) / count, jnp.sum(asked & right) / count
