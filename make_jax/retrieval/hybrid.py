"""Hybrid search: one ranking made of two, that of the vectors and that of BM25.

BM25 is strong where a query has words that the model hardly saw, a model number or a new brand; vectors where no title
says what is asked for. Two ways to join them: by ranks, with nothing to learn (Cormack, Clarke and Büttcher, SIGIR
2009), or by a weighted sum of normalised scores, with one weight to learn (Bruch, Gai and Ingber, arXiv 2210.11934).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from make_jax.retrieval.bm25 import Bm25

RRF_K = 60  # as in the paper
CANDIDATES = 1000  # taken of each ranking, or as many as are wanted if that is more


class Ranking(NamedTuple):
    """Results of queries, best first: scores float32[Nq, K] and rows int32[Nq, K], -1 where there are fewer."""

    scores: np.ndarray
    rows: np.ndarray


class Pool(NamedTuple):
    """What either ranking found for one query, with both scores brought to the range from 0 to 1.

    Attributes:
      rows: int32[U], rising.
      cosine: float32[U], (c + 1) / (largest c + 1).
      bm25: float32[U], divided by the largest; all 0 where no product has a word of the query.
    """

    rows: np.ndarray
    cosine: np.ndarray
    bm25: np.ndarray


def by_ranks(vectors: Ranking, bm25: Ranking, depth: int) -> Ranking:
    """Reciprocal-rank fusion: a product scores the sum of 1 / (60 + rank) over the rankings that have it.

    Of products that score the same, those that the vectors rank higher come first.

    Args:
      vectors: Ranking [Nq, K].
      bm25: Ranking [Nq, K2].
      depth: results wanted.
    """
    joined = []
    for both in zip(vectors.rows, bm25.rows, strict=True):
        found = [rows[rows >= 0] for rows in both]
        rows, first, which = np.unique(np.concatenate(found), return_index=True, return_inverse=True)
        parts = np.concatenate([1 / (RRF_K + np.arange(1, len(rows_) + 1)) for rows_ in found])
        scores = np.bincount(which, weights=parts, minlength=len(rows))
        order = np.lexsort((first, -scores))[:depth]
        joined.append((scores[order], rows[order]))
    return _stacked(joined, depth)


def pools(
    query_vectors: np.ndarray,
    catalogue: np.ndarray,
    queries: Sequence[str],
    lexical: Bm25,
    vectors: Ranking,
    bm25: Ranking,
) -> Iterator[Pool]:
    """The pool of each query; a product that only one ranking has gets its true score of the other all the same.

    Args:
      query_vectors: float32[Nq, E].
      catalogue: float32[N, E], may be memory-mapped.
      queries: the texts.
      lexical: BM25 over the same rows.
      vectors: Ranking by the vectors.
      bm25: Ranking by BM25.
    """
    rankings = zip(vectors.rows, bm25.rows, strict=True)
    for vector, query, both in zip(query_vectors, queries, rankings, strict=True):
        rows = np.unique(np.concatenate([ranked[ranked >= 0] for ranked in both]))
        cosine, words = catalogue[rows] @ vector + 1, lexical.scores(query)[rows]
        yield Pool(rows, cosine / max(cosine.max(initial=0), 1e-6), words / max(words.max(initial=0), 1e-6))


def by_weight(found: Sequence[Pool], weights: np.ndarray, depth: int) -> Ranking:
    """The ranking by w · cosine + (1 − w) · BM25, of the normalised scores; of equals the lower row first.

    Args:
      found: Nq pools.
      weights: float[Nq], w of each query, from 0 (BM25 alone) to 1 (vectors alone).
      depth: results wanted.
    """
    joined = []
    for pool, weight in zip(found, weights, strict=True):
        scores = weight * pool.cosine + (1 - weight) * pool.bm25
        order = np.lexsort((pool.rows, -scores))[:depth]
        joined.append((scores[order], pool.rows[order]))
    return _stacked(joined, depth)


def _stacked(results: Sequence[tuple[np.ndarray, np.ndarray]], depth: int) -> Ranking:
    width = min(depth, max((len(rows) for _, rows in results), default=0))
    stacked = Ranking(np.zeros((len(results), width), np.float32), np.full((len(results), width), -1, np.int32))
    for i, (scores, rows) in enumerate(results):
        stacked.scores[i, : len(rows)], stacked.rows[i, : len(rows)] = scores, rows
    return stacked
