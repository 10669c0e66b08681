"""Choosing an index's search-time parameters by measuring them."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from make_jax.retrieval.exact import exact_top_k
from make_jax.retrieval.scann_backend import ScannSearcher

MAX_QUERIES = 1000  # to choose with, and as many again to judge the choice
SURROGATE_COSINE = 0.8
_REORDER_FACTORS = (1, 2, 3, 5, 10, 20, 50, 100)
_NO_MORE_TO_GAIN = 0.999
_TIE = 1e-5  # scores closer than float32 sums differ are the same score
_REPEATS = 2


@dataclass(frozen=True)
class SearchParameters:
    """What an index was tuned to.

    Attributes:
      k: results per query it was tuned for.
      reorder: candidates scored exactly; None for brute force.
      leaves_to_search: partitions looked into; None without a tree.
    """

    k: int
    reorder: int | None = None
    leaves_to_search: int | None = None

    def scaled_to(self, k: int) -> SearchParameters:
        """The parameters for k results: as much effort per result, and never less effort than was tuned."""
        factor = max(1.0, k / self.k)
        effort = [None if v is None else math.ceil(v * factor) for v in (self.reorder, self.leaves_to_search)]
        return SearchParameters(k, *effort)


@dataclass(frozen=True)
class CurvePoint:
    """One measurement: recall@k against exact search, its standard error, and queries per second."""

    parameters: SearchParameters
    recall: float
    recall_error: float
    queries_per_second: float


@dataclass(frozen=True)
class Tuning:
    """What was measured, and what was chosen.

    Attributes:
      curve: every setting, measured on the queries used to choose.
      chosen: the choice, measured on held-out queries.
      queries: number of queries used to choose.
      held_out: number of queries held out.
    """

    curve: list[CurvePoint]
    chosen: CurvePoint
    queries: int
    held_out: int


def surrogate_queries(vectors: np.ndarray, seed: int) -> np.ndarray:
    """Stand-ins for queries, float32[M, E]: catalogue vectors moved to cosine 0.8 of themselves.

    Real queries come from another modality and lie farther from the catalogue, so real ones tune better.
    """
    rng = np.random.default_rng(seed)
    base = vectors[rng.choice(len(vectors), min(len(vectors), 2 * MAX_QUERIES), replace=False)]
    noise = rng.normal(size=base.shape)
    noise *= math.tan(math.acos(SURROGATE_COSINE)) / np.maximum(np.linalg.norm(noise, axis=1, keepdims=True), 1e-9)
    moved = base + noise
    return (moved / np.maximum(np.linalg.norm(moved, axis=1, keepdims=True), 1e-9)).astype(np.float32)


def tune(
    searcher: ScannSearcher, vectors: np.ndarray, queries: np.ndarray, target_recall: float, k: int, seed: int
) -> Tuning:
    """Measure the trade between recall and speed, and choose the fastest that reaches the target.

    Half of the queries propose the settings that beat the target by one standard error, fastest first; the
    other half accept the first that reaches the target there too. If none does, the one of highest recall is
    chosen. A single query plays both parts.

    Args:
      searcher: the index.
      vectors: float32[N, E], what it indexes.
      queries: float32[M, E], M at least 1; at most 2,000 of them are used.
      target_recall: recall@k wanted, in (0, 1].
      k: results per query.
      seed: which queries are used.
    """
    k = min(k, len(vectors))
    queries = queries[np.random.default_rng(seed).permutation(len(queries))[: 2 * MAX_QUERIES]]
    last_exact_score = exact_top_k(queries, vectors, k)[0][:, -1]
    half = max(1, len(queries) // 2)
    held_out = slice(half, None) if len(queries) > 1 else slice(None)
    curve = _sweep(searcher, queries[:half], last_exact_score[:half], target_recall, k)
    proposed = [p for p in curve if p.recall - p.recall_error >= target_recall]
    proposed.sort(key=lambda p: -p.queries_per_second)
    judged: list[CurvePoint] = []
    for point in proposed or [max(curve, key=lambda p: (p.recall, p.queries_per_second))]:
        judged.append(measure(searcher, queries[held_out], last_exact_score[held_out], point.parameters))
        if judged[-1].recall >= target_recall:
            break
    chosen = max(judged, key=lambda p: p.recall)
    return Tuning(curve, chosen, half, len(queries[held_out]))


def measure(
    searcher: ScannSearcher, queries: np.ndarray, last_exact_score: np.ndarray, parameters: SearchParameters
) -> CurvePoint:
    """Recall@k and speed of one setting.

    Args:
      searcher: the index.
      queries: float32[M, E].
      last_exact_score: float32[M], score of the k-th result of exact search. A result counts as found if it
        scores as well, so that which of several equal products comes back makes no difference.
      parameters: the setting.
    """
    best = math.inf
    for _ in range(_REPEATS):
        start = time.perf_counter()
        scores, _ = searcher.search(queries, parameters.k, parameters.reorder, parameters.leaves_to_search)
        best = min(best, time.perf_counter() - start)
    recalls = np.mean(scores >= last_exact_score[:, None] - _TIE, axis=1)
    error = float(recalls.std() / math.sqrt(len(recalls)))
    return CurvePoint(parameters, float(recalls.mean()), error, len(queries) / best)


def _sweep(
    searcher: ScannSearcher, queries: np.ndarray, last_exact_score: np.ndarray, target: float, k: int
) -> list[CurvePoint]:
    """Every combination worth measuring; more effort is not tried where there is nothing left to gain."""
    enough = max(target, _NO_MORE_TO_GAIN)
    curve: list[CurvePoint] = []
    for leaves in _leaf_counts(searcher.leaves):
        for reorder in _reorder_counts(searcher, k):
            parameters = SearchParameters(k, reorder, leaves)
            curve.append(measure(searcher, queries, last_exact_score, parameters))
            if curve[-1].recall >= enough:
                break
        if curve[-1].recall >= enough:
            break
    return curve


def _leaf_counts(leaves: int) -> Sequence[int | None]:
    if not leaves:
        return [None]
    return sorted({min(leaves, 1 << power) for power in range(leaves.bit_length() + 1)})


def _reorder_counts(searcher: ScannSearcher, k: int) -> Sequence[int | None]:
    if searcher.builder == "brute_force":
        return [None]
    return sorted({min(searcher.count, k * factor) for factor in _REORDER_FACTORS})
