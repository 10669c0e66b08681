"""Hard negatives: which of a query's nearest products to take, and which never."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from data_pipelines.hashing import hash_keys
from data_pipelines.ragged import Ragged, gather_ragged

_CHUNK = 256  # queries searched for at a time
_PAIRS = 1 << 14  # of queries and titles whose words are compared at a time

Search = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class MiningRules:
    """What is taken of the nearest products of a query that are no known positive of it, counted from 0.

    Attributes:
      depth: those from here on are not looked at; at least 1.
      per_query: how many are drawn, at least 1.
      skip_top: so many of the nearest are left out: with few clicks these are often wanted, though nobody said so.
      title_mask: refuse those whose title has all words of the query, which says more than that nobody clicked.
      below_positive: leave out those that score above this share of the mean score of the query's known positives
        (positive-aware mining: Moreira et al. 2024, "NV-Retriever", arXiv 2407.15831); None for no such limit.
      seed: of the draw.
    """

    depth: int = 100
    per_query: int = 8
    skip_top: int = 0
    title_mask: bool = True
    below_positive: float | None = None
    seed: int = 0


@dataclass(frozen=True)
class Known:
    """The known positives of Q queries.

    Attributes:
      query: int64[n], positions of queries, ascending.
      row: int64[n], products; ascending within a query.
      num_products: N.
    """

    query: np.ndarray
    row: np.ndarray
    num_products: int

    @classmethod
    def of(
        cls, keys: np.ndarray, pairs: list[Mapping[str, np.ndarray]], query_keys: np.ndarray, num_products: int
    ) -> Known:
        """Every product that came with a query of an equal key, in any of the tables.

        Args:
          keys: int[Q], ascending: the queries that matter.
          pairs: tables of `query_index` and `product_index`.
          query_keys: int[number of queries], equal for equal queries.
          num_products: N.
        """
        found = np.concatenate([query_keys[table["query_index"]] for table in pairs])
        rows = np.concatenate([table["product_index"] for table in pairs]).astype(np.int64)
        position = np.minimum(np.searchsorted(keys, found), len(keys) - 1)
        ours = keys[position] == found
        query, row = np.divmod(np.unique(position[ours] * num_products + rows[ours]), num_products)
        return cls(query, row, num_products)

    def counts(self, queries: int) -> np.ndarray:
        """int64[Q]: how many each query has."""
        return np.bincount(self.query, minlength=queries)

    def contains(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Whether rows int[n, K] are positives of queries int[n]: bool[n, K]."""
        ours, asked = self.query * self.num_products + self.row, query[:, None] * self.num_products + rows
        place = np.searchsorted(ours, asked)
        return np.append(ours, -1)[place] == asked

    def mean_scores(self, vectors: np.ndarray, products: np.ndarray, index_rows: np.ndarray) -> np.ndarray:
        """The mean inner product of each query with its positives, float64[Q]; inf where none has a vector.

        Args:
          vectors: float32[Q, E], of the queries.
          products: float32[n, E].
          index_rows: int[N], where each product is in `products`; -1 for nowhere.
        """
        at = index_rows[self.row]
        query, at = self.query[at >= 0], at[at >= 0]
        sums, counts = np.zeros(len(vectors)), np.bincount(query, minlength=len(vectors))
        for start in range(0, len(query), 1 << 16):
            part = slice(start, start + (1 << 16))
            scores = np.einsum("ne,ne->n", vectors[query[part]], products[at[part]])
            sums += np.bincount(query[part], weights=scores, minlength=len(vectors))
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


@dataclass(frozen=True)
class Words:
    """The words of Q queries and of N titles, as keys; see `data_pipelines.word_keys`.

    Attributes:
      queries: int32[Q, W], 0 where there is no word and -1 for words that no title has.
      titles: N sequences of int32 keys above 0.
    """

    queries: np.ndarray
    titles: Ragged

    def named(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Whether the titles of products int[n] have all words of queries int[n]: bool[n].

        As in the loss, `objectives.keywords.have_all_words`: a query without words asks for nothing, and no
        title answers it.
        """
        parts = [slice(start, start + _PAIRS) for start in range(0, len(query), _PAIRS)]
        return np.concatenate([np.zeros(0, bool), *(self._named(query[part], rows[part]) for part in parts)])

    def _named(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        starts, ends = self.titles.splits[rows], self.titles.splits[rows + 1]
        titles = gather_ragged(self.titles.values, starts, ends, int((ends - starts).max(initial=0)), 0)
        asked = self.queries[query]
        found = (asked > 0).any(axis=1)
        for word in asked.T:
            found &= (word == 0) | ((word > 0) & (word[:, None] == titles).any(axis=1))
        return found


@dataclass(frozen=True)
class Mined:
    """What was found.

    Attributes:
      query: int64[n], positions of queries, ascending.
      row: int64[n], products, the nearest of a query first.
      score: float32[n], inner products.
      known: how many candidates were refused because they are known positives.
      named: how many because their title has all words of the query.
      close: how many because they score too much like one.
    """

    query: np.ndarray
    row: np.ndarray
    score: np.ndarray
    known: int
    named: int
    close: int


def mine(
    search: Search,
    vectors: np.ndarray,
    known: Known,
    rules: MiningRules,
    limit: np.ndarray,
    words: Words | None = None,
) -> Mined:
    """Draw negatives for each query from its nearest products; never a known positive.

    Args:
      search: from queries float32[B, E] and k to the scores float32[B, k'] and rows int[B, k'] of the nearest products,
        nearest first, and -1 where fewer were found.
      vectors: float32[Q, E].
      known: the positives.
      rules: what to take.
      limit: float64[Q], the largest score that may be taken.
      words: of queries and products, for `title_mask`; None where titles are not looked at.
    """
    counts = known.counts(len(vectors))
    order = np.argsort(counts, kind="stable")  # so that queries searched for together are as deep as each other
    parts = [order[start : start + _CHUNK] for start in range(0, len(order), _CHUNK)]
    found = [_mine(search, vectors, known, rules, limit, words, part, int(counts[part].max())) for part in parts]
    query, row, score = (np.concatenate([getattr(f, name) for f in found]) for name in ("query", "row", "score"))
    by_query = np.argsort(query, kind="stable")
    refused = (sum(getattr(f, name) for f in found) for name in ("known", "named", "close"))
    return Mined(query[by_query], row[by_query], score[by_query], *refused)


def score_limits(rules: MiningRules, positive: np.ndarray) -> np.ndarray:
    """The largest score a negative may have, float64[Q], where the mean positive has `positive`."""
    if rules.below_positive is None:
        return np.full(len(positive), np.inf)
    some = np.isfinite(positive)
    mean = np.where(some, positive, 0.0)
    return np.where(some, mean - (1 - rules.below_positive) * np.abs(mean), np.inf)


def _mine(
    search: Search,
    vectors: np.ndarray,
    known: Known,
    rules: MiningRules,
    limit: np.ndarray,
    words: Words | None,
    part: np.ndarray,
    most: int,
) -> Mined:
    scores, rows = search(vectors[part], min(known.num_products, rules.depth + most))
    positive = known.contains(part, rows) & (rows >= 0)
    free = ~positive & (rows >= 0)
    rank: np.ndarray = np.cumsum(free, axis=1) - free  # so many free ones are nearer
    looked_at = rank < rules.depth
    taken = free & looked_at & (rank >= rules.skip_top)
    named = np.zeros_like(taken)
    if words is not None:
        where, column = np.nonzero(taken)
        named[where, column] = words.named(part[where], rows[where, column])
    taken &= ~named
    close = taken & (scores > limit[part, None])
    taken &= ~close
    chance = hash_keys(rules.seed, part[:, None], rows)
    chance = np.where(taken, chance, np.iinfo(np.uint64).max)
    lucky = np.argsort(chance, axis=1, kind="stable")[:, : rules.per_query]
    chosen = np.zeros_like(taken)
    np.put_along_axis(chosen, lucky, True, axis=1)
    where, column = np.nonzero(chosen & taken)
    return Mined(
        part[where],
        rows[where, column].astype(np.int64),
        scores[where, column].astype(np.float32),
        int((positive & looked_at).sum()),
        int(named.sum()),
        int(close.sum()),
    )
