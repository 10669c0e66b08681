"""Keyword Enhancement in the loss: what a short query says of the other products in a batch.

MAKE (Zheng et al., WWW'23 Companion) enriches queries, since they are brief and titles are not; how is not known. Here
the log and the keywords themselves tell which pairs of a batch belong together without having been drawn together.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from make_jax.objectives.contrastive import false_negatives

Mask = Literal["none", "query", "title"]


class Judged(NamedTuple):
    """What the pairs of a batch are, bool[B, B] each, rows queries, columns products; the rest are negatives.

    positive: what the contrast pulls together, the diagonal at least; excluded: neither that nor negatives; by_title:
    those of the excluded that are so for the words of the title alone.
    """

    positive: jax.Array
    excluded: jax.Array
    by_title: jax.Array


class Keys(NamedTuple):
    """What the queries and products of a batch are known by.

    query_key, product_key int32[B]; product_queries int32[B, M], see `false_negatives`; query_words int32[B, Q] and
    title_words int32[B, T], see `titles_with_all_words`, None where titles are not looked at.
    """

    query_key: jax.Array
    product_key: jax.Array
    product_queries: jax.Array
    query_words: jax.Array | None = None
    title_words: jax.Array | None = None


def judge_pairs(keys: Keys, mask: Mask, many_positives: bool) -> Judged:
    """Tell positives from negatives, and from what is neither.

    Args:
      keys: of the batch.
      mask: what is no negative: with "none" only the product itself, with "query" what `false_negatives` finds in the
        log, with "title" also a product whose title has all words of the query.
      many_positives: makes positives of what the log says belongs together, instead of leaving it out.
    """
    same = jnp.eye(keys.query_key.shape[0], dtype=bool)
    if mask == "none":
        equal = keys.product_key[:, None] == keys.product_key[None, :]
        return Judged(same, equal & ~same, jnp.zeros_like(same))
    known = false_negatives(keys.query_key, keys.product_key, keys.product_queries)
    by_title = jnp.zeros_like(same)
    if mask == "title" and keys.query_words is not None and keys.title_words is not None:
        by_title = titles_with_all_words(keys.query_words, keys.title_words) & ~known & ~same
    if many_positives:
        return Judged(same | known, by_title, by_title)
    return Judged(same, known | by_title, by_title)


def titles_with_all_words(query_words: jax.Array, title_words: jax.Array) -> jax.Array:
    """Which titles hold every word of which query: bool[B, B], rows queries, columns titles.

    A query without words asks for nothing, and no title answers it.

    Args:
      query_words: int32[B, Q], a key above 0 for each word; 0 where there is none, -1 for words that nothing equals.
      title_words: int32[B, T], likewise.
    """
    found = jnp.any(query_words > 0, axis=1)[:, None] & jnp.any(title_words > 0, axis=1)[None, :]
    for word in jnp.unstack(query_words, axis=1):  # all at once would need B · B · Q flags
        has = jnp.any(word[:, None, None] == title_words[None], axis=-1) & (word > 0)[:, None]
        found &= has | (word == 0)[:, None]
    return found
