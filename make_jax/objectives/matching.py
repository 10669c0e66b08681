"""Query–item matching (QIM, QIM2): yes or no for a pair, against negatives that look like positives."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from make_jax.objectives.chunks import WHOLE, Chunks, map_rows
from make_jax.objectives.contrastive import cosine
from make_jax.objectives.paired import Judge, Known, turned


class Pairs(NamedTuple):
    """3n pairs to judge: for each of n rows its positive, one drawn product for its query, one query for its product.

    query, product int32[3n], rows of the batch; match bool[3n]; valid bool[3n], false where there is no such pair.
    """

    query: jax.Array
    product: jax.Array
    match: jax.Array
    valid: jax.Array


def draw_pairs(
    key: jax.Array,
    queries: Known,
    products: Known,
    judge: Judge,
    scale: jax.Array,
    rows: int,
    chunks: Chunks = WHOLE,
) -> Pairs:
    """Positives and in-batch negatives, drawn in proportion to the softmax of their logits (ALBEF, Li et al. 2021).

    The order of a batch is random, so every (B / n)-th row stands for all of them.

    Args:
      key: decides the draws.
      queries, products: of a batch of B, products with the vectors that queries are compared with; no gradient flows.
      judge: tells which queries and products are no negatives of each other; see `paired.contrast`.
      scale: scalar, the inverse temperature.
      rows: n, how many rows of the batch to match.
      chunks: how to cut the pairs that are drawn from; it does not change what is drawn.
    """
    queries, products, scale = jax.lax.stop_gradient((queries, products, scale))
    size = len(queries.side.present)
    chosen = jnp.arange(rows) * size // rows
    for_query, for_product = jax.random.split(key)
    there = _draws(for_query, chosen, queries, products, judge, scale, chunks)
    back = _draws(for_product, chosen, products, queries, turned(judge), scale, chunks)
    return Pairs(
        jnp.concatenate([chosen, chosen, back[0]]),
        jnp.concatenate([chosen, there[0], chosen]),
        jnp.arange(3 * rows) < rows,
        jnp.concatenate([products.side.present[chosen], there[1], back[1]]),
    )


def _draws(
    key: jax.Array, chosen: jax.Array, rows: Known, columns: Known, judge: Judge, scale: jax.Array, chunks: Chunks
) -> tuple[jax.Array, jax.Array]:
    """For each chosen row a column, and whether there is any."""

    def part(
        placed: tuple[jax.Array, Known], columns: Known, fixed: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        (place, rows), (scale, key) = placed, fixed
        judged = judge(rows.keys, columns.keys)
        allowed = ~judged.spared & rows.side.present[:, None] & columns.side.present[None, :]
        return draw(key, place, scale * cosine(rows.side, columns.side), allowed)

    picked = jax.tree.map(lambda array: array[chosen], rows)
    found: tuple[jax.Array, jax.Array] = map_rows(part, (chosen, picked), columns, (scale, key), chunks)
    return found


def draw(key: jax.Array, place: jax.Array, logits: jax.Array, allowed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """One allowed column of each row, in proportion to the softmax of its logits over those.

    A row's draw is a function of the key and its place, so it does not matter which rows are drawn for together.
    int32[N], float[N, B], bool[N, B] → (int32[N], bool[N] whether there is any).
    """
    noise = jax.vmap(lambda row: jax.random.gumbel(jax.random.fold_in(key, row), logits.shape[1:]))(place)
    return jnp.argmax(jnp.where(allowed, logits + noise, -jnp.inf), axis=1), jnp.any(allowed, axis=1)


def matching_loss(logits: jax.Array, match: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Binary cross-entropy, mean over the valid pairs, and the share of them that is judged rightly.

    float[N], bool[N], bool[N] → two float32 scalars. Of three valid pairs one matches, so "no" is right for two.
    """
    count = jnp.maximum(jnp.sum(valid), 1)
    lost = jax.nn.softplus(jnp.where(match, -logits, logits))
    right = (logits > 0) == match
    return jnp.sum(jnp.where(valid, lost, 0.0)) / count, jnp.sum(valid & right) / count
