"""Metrics of groups of products: the same rankings, judged by the relevant products of one group at a time.

docs/metrics.md defines them, with an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from make_jax.retrieval.metrics import Ids, MetricTable, Qrels, evaluate_rankings

DRAWS = 8  # of as many products from the larger group as the smaller one has


@dataclass(frozen=True)
class Split:
    """Two groups of relevant products.

    Attributes:
      name: what tells them apart, "clicks in training".
      sides: what the groups are called, "never clicked" and "clicked".
      side: int8[R], for each judgement 0 or 1, or -1 for neither.
    """

    name: str
    sides: tuple[str, str]
    side: np.ndarray


@dataclass(frozen=True)
class GroupTable:
    """The metrics of one group.

    Attributes:
      split: what tells it from the other group.
      name: of the group.
      pairs: relevant (query, product) pairs in it.
      table: metrics of every query, by the group's relevant products; NaN where a query has none.
      matched: float64[Nq], R-precision by as many relevant products of this group as of the other, so that the two can
        be compared; NaN where a query has none of either.
    """

    split: str
    name: str
    pairs: int
    table: MetricTable
    matched: np.ndarray

    @property
    def queries(self) -> int:
        """Queries with a relevant product in the group."""
        return int(np.sum(self.table.relevant > 0))

    @property
    def matched_queries(self) -> int:
        """Queries with a relevant product in both groups."""
        return int(np.sum(~np.isnan(self.matched)))

    @property
    def matched_mean(self) -> float:
        """Mean of `matched` over the queries that have it, NaN if none has."""
        return float(np.nanmean(self.matched)) if self.matched_queries else float("nan")


def group_depth(qrels: Qrels, query_ids: Ids, ks: Sequence[int] = (10, 100), relevant_at: int = 2) -> int:
    """Results per query that the metrics of groups need: the other group's products are taken out of them."""
    return qrels.depth(query_ids, (0,), relevant_at) + max(ks)


def group_tables(
    ranking: np.ndarray,
    catalogue_ids: Ids,
    qrels: Qrels,
    query_ids: Ids,
    split: Split,
    ks: Sequence[int] = (10, 100),
    relevant_at: int = 2,
    seed: int = 0,
) -> list[GroupTable]:
    """Judge rankings by each of two groups; none for a split that has relevant products on one side only.

    Relevant products outside the group are taken out of the ranking and of the judgements: they are neither found nor
    in the way. Products of lower grades stay.

    Args:
      ranking: int[Nq, K], catalogue rows, best first, -1 for none; `group_depth` deep, or as deep as there is.
      catalogue_ids: str[N].
      qrels: the judgements.
      query_ids: str[Nq].
      split: the groups.
      ks: cut-offs.
      relevant_at: smallest grade that counts as relevant.
      seed: of the draws of matched products.
    """
    relevant_at = qrels.threshold(relevant_at)
    relevant = qrels.relevance >= relevant_at
    pairs = [int(np.sum(relevant & (split.side == side))) for side in (0, 1)]
    if not all(pairs):
        return []
    rows = pd.Index(np.asarray(catalogue_ids, dtype=object)).get_indexer(qrels.product_ids)[qrels.products]
    side_of_relevant = np.where(relevant, split.side, -2)
    matched = _matched(ranking, len(catalogue_ids), rows, qrels, query_ids, side_of_relevant, seed)
    tables = []
    for side in (0, 1):
        out = relevant & (split.side != side)
        left = _without(ranking, len(catalogue_ids), rows, qrels, query_ids, out)
        table = evaluate_rankings(left, catalogue_ids, qrels.where(~out), query_ids, ks, relevant_at)
        tables.append(GroupTable(split.name, split.sides[side], pairs[side], table, matched[side]))
    return tables


def _without(
    ranking: np.ndarray, catalogue: int, rows: np.ndarray, qrels: Qrels, query_ids: Ids, out: np.ndarray
) -> np.ndarray:
    """The rankings with the products of the judgements `out`, bool[R], made padding."""
    left, is_out = ranking.copy(), np.zeros(catalogue, bool)  # the latter of the query at hand
    for i, span in enumerate(qrels.spans(query_ids)):
        gone = rows[span][out[span] & (rows[span] >= 0)]
        is_out[gone] = True
        left[i, (ranking[i] >= 0) & is_out[ranking[i]]] = -1
        is_out[gone] = False
    return left


def _matched(
    ranking: np.ndarray, catalogue: int, rows: np.ndarray, qrels: Qrels, query_ids: Ids, side: np.ndarray, seed: int
) -> np.ndarray:
    """R-precision of both groups by equally many relevant products of each, float64[2, Nq].

    Args:
      ranking: int[Nq, K].
      catalogue: N.
      rows: int[R], catalogue row of each judgement, or -1.
      qrels: the judgements.
      query_ids: str[Nq].
      side: int[R], 0 or 1; -1 for relevant products of neither group; -2 for those that are not relevant.
      seed: of the draws.
    """
    values = np.full((2, len(ranking)), np.nan)
    place = np.full(catalogue, -1)  # number among the query's relevant products; cleared after each query
    for i, span in enumerate(qrels.spans(query_ids)):
        kept = (side[span] > -2) & (rows[span] >= 0)
        members, sides = rows[span][kept], side[span][kept]
        count = min(np.sum(sides == 0), np.sum(sides == 1))
        if not count:
            continue
        place[members] = np.arange(len(members))
        ranked = place[ranking[i][ranking[i] >= 0]]
        place[members] = -1
        random = np.random.default_rng((seed, i))
        values[:, i] = [_drawn_r_precision(ranked, sides == s, int(count), random) for s in (0, 1)]
    return values


def _drawn_r_precision(ranked: np.ndarray, is_member: np.ndarray, count: int, random: np.random.Generator) -> float:
    """R-precision by `count` of the members, all other relevant products taken out; the mean of some draws.

    Args:
      ranked: int[K], the ranking as numbers of relevant products, -1 for others.
      is_member: bool[relevant products].
      count: how many are drawn.
      random: draws.
    """
    members = np.flatnonzero(is_member)
    draws = DRAWS if count < len(members) else 1
    chosen = np.zeros((draws, len(is_member)), bool)
    for row in chosen:
        row[random.choice(members, count, replace=False)] = True
    is_hit = (ranked >= 0) & chosen[:, ranked]
    position = np.cumsum((ranked < 0) | is_hit, axis=1)
    return float(np.sum(is_hit & (position <= count)) / (count * draws))
