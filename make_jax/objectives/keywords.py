"""Keyword Enhancement in the loss: what a short query says of the other products in a batch.

MAKE (Zheng et al., WWW'23 Companion) enriches queries, since they are brief and titles are not; how is not known. Here
the log and the keywords themselves tell which pairs of a batch belong together without having been drawn together.
Any rows of a batch are judged against any columns of it, so that a large batch need not be judged at once.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Mask = Literal["none", "query", "title", "words"]


class Judged(NamedTuple):
    """What the pairs of rows and columns are, bool[R, C] each; the rest are negatives.

    positive: what the contrast pulls together, each row with its own at least; excluded: neither that nor negatives;
    by_words: those of either that are so for their words alone.
    """

    positive: jax.Array
    excluded: jax.Array
    by_words: jax.Array

    @property
    def spared(self) -> jax.Array:
        """Pairs that are never drawn as negatives."""
        return self.positive | self.excluded

    @property
    def transposed(self) -> Judged:
        """The same of columns and rows."""
        return Judged(self.positive.T, self.excluded.T, self.by_words.T)


class Keys(NamedTuple):
    """What the queries and products of a batch are known by.

    place int32[B], of each pair in the batch; query_key, product_key int32[B], equal for what is equal, from 0 on;
    product_queries int32[B, M], query keys under which each product was clicked, padded with -1; query_words
    int32[B, Q] and product_words int32[B, T], see `have_all_words`, None where words are not looked at.
    """

    place: jax.Array
    query_key: jax.Array
    product_key: jax.Array
    product_queries: jax.Array
    query_words: jax.Array | None = None
    product_words: jax.Array | None = None


class ProductKeys(NamedTuple):
    """What the products of a batch are known by among themselves.

    place, product_key int32[B], as in `Keys`; title_ids int32[B, T]; has_title bool[B]; no title is like no other.
    """

    place: jax.Array
    product_key: jax.Array
    title_ids: jax.Array
    has_title: jax.Array


def judge_pairs(rows: Keys, columns: Keys, mask: Mask, many_positives: bool) -> Judged:
    """Tell positives from negatives, and from what is neither, between queries (rows) and products (columns).

    Args:
      rows, columns: any parts of one batch.
      mask: what is no negative: with "none" only the product itself, with "query" what `false_negatives` finds in the
        log, with "title" also a product whose title has all words of the query, with "words" one whose title and
        queries have them together.
      many_positives: makes positives of what the log says belongs together, instead of leaving it out; titles alone
        make none.
    """
    own = own_pairs(rows.place, columns.place)
    nothing = jnp.zeros_like(own)
    if mask == "none":
        return Judged(own, (rows.product_key[:, None] == columns.product_key[None, :]) & ~own, nothing)
    known = false_negatives(rows, columns)
    by_words = nothing
    if mask in ("title", "words") and rows.query_words is not None and columns.product_words is not None:
        by_words = have_all_words(rows.query_words, columns.product_words) & ~known & ~own
    if many_positives and mask == "words":
        return Judged(own | known | by_words, nothing, by_words)
    if many_positives:
        return Judged(own | known, by_words, by_words)
    return Judged(own, known | by_words, by_words)


def judge_products(rows: ProductKeys, columns: ProductKeys) -> Judged:
    """Which products are no negatives of each other when their own parts are contrasted.

    Those that are the same, and those whose titles are, token for token. Products that share a query stay negatives:
    they are what teaches a tower to tell a product from its like.
    """
    own = own_pairs(rows.place, columns.place)
    alike = jnp.all(rows.title_ids[:, None] == columns.title_ids[None, :], axis=-1)
    alike &= rows.has_title[:, None] & columns.has_title[None, :]
    same = rows.product_key[:, None] == columns.product_key[None, :]
    return Judged(own, (alike | same) & ~own, jnp.zeros_like(own))


def own_pairs(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Which rows and columns were drawn together, by their places int32[R], int32[C] in the batch: bool[R, C]."""
    return rows[:, None] == columns[None, :]


def false_negatives(rows: Keys, columns: Keys) -> jax.Array:
    """Which pairs must not be negatives of each other: bool[R, C], rows queries, columns products.

    Entry (i, j) is true when product j was ever clicked under a query equal to query i, when the query it came with is
    equal to query i, or when j is the same product as that of i. What was drawn together (the positive) is false.
    """
    clicked = jnp.any(rows.query_key[:, None, None] == columns.product_queries[None, :, :], axis=-1)
    same_query = rows.query_key[:, None] == columns.query_key[None, :]
    same_product = rows.product_key[:, None] == columns.product_key[None, :]
    return (clicked | same_query | same_product) & ~own_pairs(rows.place, columns.place)


def have_all_words(query_words: jax.Array, product_words: jax.Array) -> jax.Array:
    """Which products have every word of which query: bool[R, C], rows queries, columns products.

    A query without words asks for nothing, and no product answers it.

    Args:
      query_words: int32[R, Q], a key above 0 for each word; 0 where there is none, -1 for words that nothing equals.
      product_words: int32[C, T], likewise.
    """
    found = jnp.any(query_words > 0, axis=1)[:, None] & jnp.any(product_words > 0, axis=1)[None, :]
    for word in jnp.unstack(query_words, axis=1):  # all at once would need R · C · Q flags
        has = jnp.any(word[:, None, None] == product_words[None], axis=-1) & (word > 0)[:, None]
        found &= has | (word == 0)[:, None]
    return found
