"""Retrieval metrics from graded judgements, one value per query; docs/metrics.md defines them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from make_jax.errors import UserError

Ids = Sequence[str] | np.ndarray
MAX_GRADE = 30  # the nDCG gain is 2^grade - 1
KS = (10, 100)  # cut-offs


@dataclass(frozen=True)
class Qrels:
    """Graded judgements, grouped by query.

    Attributes:
      query_ids: object[Nq], the judged queries.
      product_ids: object[P], the judged products.
      offsets: int64[Nq + 1]; the judgements of query q are `offsets[q]:offsets[q + 1]`.
      products: int64[R], positions in `product_ids`.
      relevance: int64[R], grades, 0 = not relevant.
    """

    query_ids: np.ndarray
    product_ids: np.ndarray
    offsets: np.ndarray
    products: np.ndarray
    relevance: np.ndarray

    @classmethod
    def from_arrays(cls, query_ids: Ids, product_ids: Ids, relevance: Sequence[int] | np.ndarray) -> Qrels:
        """Group judgements given as three columns of R rows each.

        Raises:
          UserError: columns of different lengths, a grade that is not a whole number in 0..30, or a product
            judged twice for one query.
        """
        grades = _checked_grades(query_ids, product_ids, relevance)
        queries, query_names = pd.factorize(np.asarray(query_ids, dtype=object))
        products, product_names = pd.factorize(np.asarray(product_ids, dtype=object))
        order = np.lexsort((products, queries))
        queries, products = queries[order], products[order]
        twice = np.flatnonzero((np.diff(queries) == 0) & (np.diff(products) == 0))
        if len(twice):
            query, product = query_names[queries[twice[0]]], product_names[products[twice[0]]]
            raise UserError(f"qrels: query {query!r} judges product {product!r} twice; keep one of the two rows")
        offsets = np.searchsorted(queries, np.arange(len(query_names) + 1))
        return cls(query_names, product_names, offsets, products, grades[order])

    def threshold(self, relevant_at: int = 2) -> int:
        """Smallest grade that counts as relevant: `relevant_at`, or the highest grade there is if lower."""
        return min(relevant_at, max(1, int(self.relevance.max(initial=0))))

    def where(self, keep: np.ndarray) -> Qrels:
        """The judgements at `keep`, bool[R], alone; every query stays."""
        offsets = np.append(0, np.cumsum(keep))[self.offsets]
        return Qrels(self.query_ids, self.product_ids, offsets, self.products[keep], self.relevance[keep])

    def spans(self, query_ids: Ids) -> list[slice]:
        """Where each query's judgements are; nowhere for a query without any."""
        positions = pd.Index(self.query_ids).get_indexer(np.asarray(query_ids, dtype=object))
        return [slice(self.offsets[p], self.offsets[p + 1]) if p >= 0 else slice(0, 0) for p in positions]

    def depth(self, query_ids: Ids, ks: Sequence[int] = KS, relevant_at: int = 2) -> int:
        """Results per query that the metrics need: the largest of `ks` and of the counts of relevant ones."""
        wanted = pd.Index(self.query_ids).get_indexer(np.asarray(query_ids, dtype=object))
        relevant = np.append(0, np.cumsum(self.relevance >= self.threshold(relevant_at)))
        counts = np.diff(relevant[self.offsets])
        return max([*ks, int(counts[wanted[wanted >= 0]].max(initial=0))])


@dataclass(frozen=True)
class MetricTable:
    """Every metric of every query.

    Attributes:
      query_ids: object[Nq].
      values: metric name -> float64[Nq]; NaN where the query has no relevant product.
      relevant: int64[Nq], relevant products per query.
      relevant_at: smallest grade that counted as relevant.
      missing_products: judged products with a grade above 0 that the catalogue does not have. They still
        count as relevant: a product that was not indexed cannot be found.
    """

    query_ids: np.ndarray
    values: dict[str, np.ndarray]
    relevant: np.ndarray
    relevant_at: int
    missing_products: int

    @property
    def left_out(self) -> int:
        """Number of queries without a relevant product: they are in no mean."""
        return int(np.sum(self.relevant == 0))

    def means(self, where: np.ndarray | None = None) -> dict[str, float]:
        """Mean of each metric over the queries that have a relevant product.

        Args:
          where: bool[Nq], the segment to average over; all queries if None. NaN for an empty segment.
        """
        keep = self.relevant > 0 if where is None else (self.relevant > 0) & where
        return {name: float(v[keep].mean()) if keep.any() else float("nan") for name, v in self.values.items()}


def evaluate_rankings(
    ranking: np.ndarray,
    catalogue_ids: Ids,
    qrels: Qrels,
    query_ids: Ids,
    ks: Sequence[int] = KS,
    relevant_at: int = 2,
) -> MetricTable:
    """Judge one ranking per query.

    Args:
      ranking: int[Nq, K], catalogue rows, best first; negative rows are padding and take no place in the
        ranking.
      catalogue_ids: str[N], product id of each catalogue row.
      qrels: the judgements.
      query_ids: str[Nq], the query of each ranking.
      ks: cut-offs of the metrics that have one.
      relevant_at: smallest grade that counts as relevant; lowered to the highest grade in `qrels` if none is
        so high.

    Raises:
      UserError: a product twice in one ranking, ids given twice, rows outside the catalogue, rankings not
        deep enough (`Qrels.depth`), or no query with a relevant product.
    """
    catalogue, queries = _unique_index(catalogue_ids, "catalogue"), _unique_index(query_ids, "queries")
    ranking = np.asarray(ranking)
    _check_ranking(ranking, len(catalogue), len(queries), qrels.depth(query_ids, ks, relevant_at))
    relevant_at = qrels.threshold(relevant_at)
    rows_of_judged = catalogue.get_indexer(qrels.product_ids)[qrels.products]
    judged_queries = pd.Index(qrels.query_ids).get_indexer(queries)

    grades = np.zeros(len(catalogue), dtype=np.int64)  # of the query at hand; cleared after each
    place = np.zeros(len(catalogue), dtype=np.int64)
    values: dict[str, np.ndarray] = {}
    relevant = np.zeros(len(queries), dtype=np.int64)
    for i, judged_query in enumerate(judged_queries):
        rows = ranking[i][ranking[i] >= 0]
        place[rows] = np.arange(len(rows))
        _check_no_repeat(rows, place, catalogue, queries[i])
        if judged_query < 0:
            continue
        span = slice(qrels.offsets[judged_query], qrels.offsets[judged_query + 1])
        judged = qrels.relevance[span]
        relevant[i] = np.sum(judged >= relevant_at)
        if not relevant[i]:
            continue
        known = rows_of_judged[span] >= 0
        judged_rows = rows_of_judged[span][known]
        grades[judged_rows] = judged[known]
        for name, value in query_metrics(grades[rows], judged, ks, relevant_at).items():
            values.setdefault(name, np.full(len(queries), np.nan))[i] = value
        grades[judged_rows] = 0
    if not values:
        raise UserError(
            f"none of the {len(queries)} queries has a product of relevance {relevant_at} or more in the "
            "qrels; check that both tables use the same query_id"
        )
    missing = np.unique(qrels.products[(rows_of_judged < 0) & (qrels.relevance > 0)])
    return MetricTable(queries.to_numpy(), values, relevant, relevant_at, len(missing))


def query_metrics(ranked: np.ndarray, judged: np.ndarray, ks: Sequence[int], relevant_at: int) -> dict[str, float]:
    """All metrics of one query that has at least one relevant product.

    Args:
      ranked: int[K], grades of the results, best first.
      judged: int[J], grades of all judged products.
      ks: cut-offs.
      relevant_at: smallest grade that counts as relevant.
    """
    relevant = int(np.sum(judged >= relevant_at))
    is_hit = ranked >= relevant_at
    found = np.append(0, np.cumsum(is_hit))  # found[k]: relevant products among the first k
    best = np.sort(judged)[::-1]
    metrics = {"r_precision": found[min(relevant, len(ranked))] / relevant}
    for k in ks:
        hits = found[min(k, len(ranked))]
        metrics[f"ndcg@{k}"] = float(dcg(ranked[:k]) / dcg(best[:k]))
        metrics[f"p@{k}"] = metrics[f"recall@{k}"] = hits / min(k, relevant)
        metrics[f"recall_plain@{k}"] = hits / relevant
        metrics[f"hit_rate@{k}"] = float(hits > 0)
    metrics["mrr"] = 1.0 / (1 + int(np.argmax(is_hit))) if is_hit.any() else 0.0
    return metrics


def rows_of(ranked_ids: Sequence[Ids], catalogue_ids: Ids, depth: int) -> np.ndarray:
    """Rankings given as product ids, as the int64[Nq, depth] rows that `evaluate_rankings` takes.

    A list longer than `depth` is cut, a shorter one is all its system found and is padded with -1.

    Raises:
      UserError: an id that the catalogue does not have, or a catalogue with an id twice.
    """
    catalogue = _unique_index(catalogue_ids, "catalogue")
    rows = np.full((len(ranked_ids), depth), -1, dtype=np.int64)
    for i, ids in enumerate(ranked_ids):
        found = catalogue.get_indexer(np.asarray(ids[:depth], dtype=object))
        if (found < 0).any():
            raise UserError(
                f"ranking {i}: product {ids[int(np.argmax(found < 0))]!r} is not in the catalogue of "
                f"{len(catalogue)} products; rank and judge the same catalogue"
            )
        rows[i, : len(found)] = found
    return rows


def dcg(grades: np.ndarray) -> np.ndarray:
    """Discounted gain of rankings given as grades int[..., K], best first; float64[...]."""
    return np.sum((2.0**grades - 1) / np.log2(np.arange(2, grades.shape[-1] + 2)), axis=-1)


METRICS = tuple(query_metrics(np.array([1]), np.array([1]), KS, 1))  # by name


def _checked_grades(query_ids: Ids, product_ids: Ids, relevance: Sequence[int] | np.ndarray) -> np.ndarray:
    given = np.asarray(relevance)
    if not len(query_ids) == len(product_ids) == len(given):
        raise UserError(
            f"qrels: {len(query_ids)} query ids, {len(product_ids)} product ids and {len(given)} grades; "
            "give one of each per judgement"
        )
    bad = np.flatnonzero(~((given >= 0) & (given <= MAX_GRADE) & (given == np.floor(given))))
    if len(bad):
        raise UserError(
            f"qrels row {bad[0]} (query {query_ids[bad[0]]!r}): relevance {given[bad[0]]} is not a whole "
            f"number from 0 to {MAX_GRADE}; mend the row"
        )
    return given.astype(np.int64)


def _unique_index(ids: Ids, what: str) -> pd.Index:
    index = pd.Index(np.asarray(ids, dtype=object))
    if not index.is_unique:
        raise UserError(f"{what}: id {index[index.duplicated()][0]!r} occurs twice; ids must be unique")
    return index


def _check_ranking(ranking: np.ndarray, catalogue: int, queries: int, depth: int) -> None:
    if ranking.ndim != 2 or len(ranking) != queries:
        raise UserError(f"rankings of shape {ranking.shape} for {queries} queries; give one row per query")
    if ranking.max(initial=-1) >= catalogue:
        raise UserError(
            f"a ranking holds row {ranking.max()} of a catalogue of {catalogue}; rank and judge the same catalogue"
        )
    if ranking.shape[1] < min(depth, catalogue):
        raise UserError(
            f"rankings are {ranking.shape[1]} deep but these metrics need {min(depth, catalogue)} results "
            "per query (R-precision looks as deep as there are relevant products); rank deeper"
        )


def _check_no_repeat(rows: np.ndarray, place: np.ndarray, catalogue: pd.Index, query_id: str) -> None:
    """`place` holds the last position of each row, so an earlier position differs from it."""
    repeated = np.flatnonzero(place[rows] != np.arange(len(rows)))
    if len(repeated):
        raise UserError(
            f"query {query_id!r}: product {catalogue[rows[repeated[0]]]!r} is ranked twice, first at "
            f"{repeated[0] + 1}; a result list must not repeat a product"
        )
