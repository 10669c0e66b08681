"""Query–item matching (QIM, QIM2): yes or no for a pair, against negatives that look like positives."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Pairs(NamedTuple):
    """3n pairs to judge: for each of n rows its positive, one drawn product for its query, one query for its product.

    query, product int32[3n], rows of the batch; match bool[3n]; valid bool[3n], false where there is no such pair.
    """

    query: jax.Array
    product: jax.Array
    match: jax.Array
    valid: jax.Array


def draw_pairs(key: jax.Array, logits: jax.Array, excluded: jax.Array, present: jax.Array, rows: int) -> Pairs:
    """Positives and in-batch negatives, drawn in proportion to the softmax of their logits (ALBEF, Li et al. 2021).

    The order of a batch is random, so every (B / n)-th row stands for all of them.

    Args:
      key: decides the draws.
      logits: float[B, B], scaled similarities, rows queries, columns products; no gradient flows to them.
      excluded: bool[B, B], pairs that are no negatives of each other.
      present: bool[B], which products there are.
      rows: n, how many rows of the batch to match.
    """
    size = logits.shape[0]
    chosen = jnp.arange(rows) * size // rows
    allowed = ~excluded & present[None, :] & ~jnp.eye(size, dtype=bool)
    for_query, for_product = jax.random.split(key)
    product, found_product = draw(for_query, logits[chosen], allowed[chosen])
    query, found_query = draw(for_product, logits.T[chosen], allowed.T[chosen])
    return Pairs(
        jnp.concatenate([chosen, chosen, query]),
        jnp.concatenate([chosen, product, chosen]),
        jnp.arange(3 * rows) < rows,
        jnp.concatenate([present[chosen], found_product, found_query]),
    )


def draw(key: jax.Array, logits: jax.Array, allowed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One allowed column of each row, in proportion to the softmax of its logits over those.

    float[N, B], bool[N, B] → (int32[N], bool[N] whether there is any).
    """
    noisy = jax.lax.stop_gradient(logits) + jax.random.gumbel(key, logits.shape)
    return jnp.argmax(jnp.where(allowed, noisy, -jnp.inf), axis=1), jnp.any(allowed, axis=1)


def matching_loss(logits: jax.Array, match: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Binary cross-entropy, mean over the valid pairs, and the share of them that is judged rightly.

    float[N], bool[N], bool[N] → two float32 scalars. Of three valid pairs one matches, so "no" is right for two.
    """
    count = jnp.maximum(jnp.sum(valid), 1)
    lost = jax.nn.softplus(jnp.where(match, -logits, logits))
    right = (logits > 0) == match
    return jnp.sum(jnp.where(valid, lost, 0.0)) / count, jnp.sum(valid & right) / count
