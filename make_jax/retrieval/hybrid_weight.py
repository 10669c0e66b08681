"""The weight of hybrid search, learned from judged queries that are not those it is judged by."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import pandas as pd

from data_pipelines.keywords import query_keyword_key
from make_jax.errors import UserError
from make_jax.retrieval.hybrid import Pool
from make_jax.retrieval.metrics import Qrels, dcg

# BM25 alone, 49 ratios of the two in equal steps of their logarithm, vectors alone: cosines differ by little within a
# query, so that good weights are often near 1.
GRID = np.concatenate([[0.0], 1 / (1 + np.exp(-np.linspace(-6, 6, 49))), [1.0]])
FOLDS = 5
KIND = "make_jax-hybrid"
FORMAT_VERSION = 1
METRIC_AT = 10  # nDCG@10: what shoppers see first
_REMEDY = "write it with `make-jax hybrid`"


@dataclass(frozen=True)
class HybridWeight:
    """A learned weight and what it was learned from.

    Attributes:
      weight: of the vectors' scores; BM25's have 1 - weight.
      ndcg: nDCG@10 of the queries it was learned from, with this weight.
      ndcg_bm25: the same for BM25 alone.
      ndcg_vectors: the same for the vectors alone.
      model_fingerprint: of the model whose vectors they were.
      queries: a hash of each query's id and text.
    """

    weight: float
    ndcg: float
    ndcg_bm25: float
    ndcg_vectors: float
    model_fingerprint: str
    queries: list[str]

    def to_json(self) -> str:
        """What the file holds."""
        return json.dumps({"kind": KIND, "format_version": FORMAT_VERSION, **asdict(self)}, indent=1) + "\n"

    def check_model(self, fingerprint: str, path: Path) -> None:
        """Raises UserError if the weight was learned for another model's scores."""
        if self.model_fingerprint != fingerprint:
            raise UserError(
                f"{path} was learned for model {self.model_fingerprint[:12]}, this is model {fingerprint[:12]}; "
                "learn the weight again with `make-jax hybrid`"
            )

    def check_queries(self, query_ids: Sequence[str], texts: Sequence[str], path: Path) -> None:
        """Raises UserError if one of these queries is among those the weight was learned from."""
        known = set(self.queries)
        shared = [text for hashed, text in zip(hashes(query_ids, texts), texts, strict=True) if hashed in known]
        if shared:
            raise UserError(
                f"{path} was learned from {len(shared)} of these {len(texts)} queries, as {shared[0]!r}; judge by "
                "others, or leave --hybrid-weight out: then each query is judged with a weight learned from others"
            )


def read_weight(path: Path) -> HybridWeight:
    """Read what `make-jax hybrid` wrote.

    Raises:
      UserError: no such file, or another one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("kind") != KIND or content.pop("format_version") != FORMAT_VERSION:
            raise ValueError(f"not kind {KIND!r} format {FORMAT_VERSION}")
        return HybridWeight(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} cannot be read as a hybrid weight ({error}); {_REMEDY}") from error


def hashes(query_ids: Sequence[str], texts: Sequence[str]) -> list[str]:
    """A short hash of each query's id and text."""
    pairs = zip(query_ids, texts, strict=True)
    return [_digest(f"{query_id}\n{text}").hex() for query_id, text in pairs]


def gains(found: Iterable[Pool], catalogue_ids: np.ndarray, qrels: Qrels, query_ids: Sequence[str]) -> np.ndarray:
    """nDCG@10 by every weight of GRID, float64[51, Nq]; NaN where nothing is judged above 0.

    Args:
      found: Nq pools.
      catalogue_ids: object[N] of str.
      qrels: the judgements.
      query_ids: str[Nq].
    """
    rows_of_judged = pd.Index(catalogue_ids).get_indexer(qrels.product_ids)[qrels.products]
    grades = np.zeros(len(catalogue_ids), np.int64)  # of the query at hand; cleared after each
    table = np.full((len(GRID), len(query_ids)), np.nan)
    for i, (pool, span) in enumerate(zip(found, qrels.spans(query_ids), strict=True)):
        judged, rows = qrels.relevance[span], rows_of_judged[span]
        best = dcg(np.sort(judged)[::-1][:METRIC_AT])
        if best > 0:
            grades[rows[rows >= 0]] = judged[rows >= 0]
            table[:, i] = dcg(grades[pool.rows][_firsts(pool)]) / best
            grades[rows[rows >= 0]] = 0
    return table


def best_weight(table: np.ndarray) -> float:
    """The weight of the largest mean, of equals the middle one.

    Args:
      table: float64[51, Nq], as `gains` gives it.

    Raises:
      UserError: no query counts.
    """
    counts = ~np.isnan(table[0])
    if not counts.any():
        raise UserError("no judged query is left to learn the weight of hybrid search from; give more of them")
    means = table[:, counts].mean(axis=1)
    best = np.flatnonzero(means >= means.max() - 1e-12)
    return float(GRID[best[len(best) // 2]])


def cross_fitted(table: np.ndarray, queries: Sequence[str]) -> np.ndarray:
    """A weight for each query, learned from the queries of the other folds, float64[Nq].

    Equal queries (`query_keyword_key`) are in one fold.

    Args:
      table: float64[51, Nq], as `gains` gives it.
      queries: the texts.

    Raises:
      UserError: all queries are in one fold.
    """
    fold = np.array([int.from_bytes(_digest(query_keyword_key(text))) % FOLDS for text in queries], int)
    weights = np.zeros(len(queries))
    for here in np.unique(fold):
        weights[fold == here] = best_weight(table[:, fold != here])
    return weights


def _digest(text: str) -> bytes:
    return blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()


def _firsts(pool: Pool) -> np.ndarray:
    """Positions in the pool of the first results by each weight, int[51, 10 or U]; of equals the lower row first."""
    scores = GRID[:, None] * pool.cosine + (1 - GRID[:, None]) * pool.bm25
    scores -= np.arange(scores.shape[1]) * 1e-13  # less than scores of 32 bits differ by, so it only orders equals
    width = min(METRIC_AT, scores.shape[1])
    near = np.argpartition(-scores, max(0, width - 1), axis=1)[:, :width] if width else np.zeros((len(GRID), 0), int)
    return np.take_along_axis(near, np.argsort(-np.take_along_axis(scores, near, axis=1), axis=1), axis=1)
