"""From queries and judgements to the metrics of every system, of every query and of groups of products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from data_pipelines.log_checks import QrelChecker, checked_queries
from data_pipelines.quarantine import Quarantine
from make_jax.commands.systems import Systems, rank
from make_jax.errors import UserError
from make_jax.retrieval.groups import GroupTable, Split, group_depth, group_tables
from make_jax.retrieval.hybrid import Ranking
from make_jax.retrieval.metrics import MetricTable, Qrels, evaluate_rankings


@dataclass(frozen=True)
class Judged:
    """Everything that evaluation has computed, before it is written down.

    Attributes:
      queries: query_id, query and any further columns, one row a query.
      qrels: the judgements.
      product_ids: object[N] of str.
      rankings: by column: "exact", "index", "bm25", "hybrid", "hybrid_index", as far as asked for; the first is what
        the report is about.
      columns: the metrics of each.
      weights: float32[N, 2], title and picture; None where no model is judged.
      hybrid: what hybrid search did, None without it.
      notes: what is worth knowing.
    """

    queries: pd.DataFrame
    qrels: Qrels
    product_ids: np.ndarray
    rankings: dict[str, Ranking]
    columns: dict[str, MetricTable]
    weights: np.ndarray | None
    hybrid: dict[str, Any] | None
    notes: list[str]

    @property
    def main(self) -> str:
        """The column that the report is about."""
        return next(iter(self.columns))

    @property
    def query_ids(self) -> list[str]:
        """str[Nq]"""
        return self.queries["query_id"].tolist()

    @property
    def texts(self) -> list[str]:
        """str[Nq]"""
        return self.queries["query"].tolist()

    def groups(self, splits: Sequence[Split]) -> dict[str, list[GroupTable]]:
        """The metrics of groups of products, by column."""
        return {
            column: [
                table
                for split in splits
                for table in group_tables(ranking.rows, self.product_ids, self.qrels, self.query_ids, split)
            ]
            for column, ranking in self.rankings.items()
        }


def read_judgements(queries: str, qrels: str, quarantine: Quarantine) -> tuple[pd.DataFrame, Qrels]:
    """The queries and what is judged of them.

    Raises:
      DataError: a file that cannot be read.
      UserError: nothing that can be used.
    """
    table = checked_queries(queries, quarantine)
    # Any product id goes: one that the catalogue lacks counts as not found, which is what a shopper would see.
    judgements = QrelChecker(quarantine, None, set(table["query_id"].to_pylist())).qrels(qrels)
    if table.num_rows == 0 or judgements.num_rows == 0:
        raise UserError(
            f"{table.num_rows} queries in {queries} and {judgements.num_rows} judgements in {qrels} can be "
            f"used ({_reasons(quarantine)}); check that both tables use the same query_id"
        )
    columns = (judgements[name].to_numpy() for name in ("query_id", "product_id", "relevance"))
    return table.to_pandas(), Qrels.from_arrays(*columns)


def judge(systems: Systems, queries_path: str, qrels_path: str) -> Judged:
    """Ask every system for every query and judge what it finds; raises as `read_judgements` and `rank`."""
    quarantine = Quarantine()
    queries, qrels = read_judgements(queries_path, qrels_path, quarantine)
    query_ids, texts = queries["query_id"].tolist(), queries["query"].tolist()
    ranked = rank(systems, query_ids, texts, group_depth(qrels, query_ids), qrels)
    columns = {
        name: evaluate_rankings(ranking.rows, systems.product_ids, qrels, query_ids)
        for name, ranking in ranked.columns.items()
    }
    vectors = systems.vectors
    return Judged(
        queries,
        qrels,
        systems.product_ids,
        ranked.columns,
        columns,
        vectors.weights if vectors else None,
        ranked.hybrid,
        _condition(systems) + _set_aside(quarantine) + _left_out(next(iter(columns.values()))),
    )


def _condition(systems: Systems) -> list[str]:
    notes = []
    if systems.vectors and systems.vectors.without:
        notes.append(f"the vectors were made without {systems.vectors.without}: every product as if it had none")
    if systems.bm25 and systems.bm25.missing:
        notes.append(f"{systems.bm25.missing} products of the catalogue are not in BM25, which cannot find them")
    return notes


def _reasons(quarantine: Quarantine) -> str:
    reasons = [f"{count} {reason}" for name in quarantine.read for reason, count in quarantine.reasons(name).items()]
    return ", ".join(reasons) or "none set aside"


def _set_aside(quarantine: Quarantine) -> list[str]:
    return [f"{len(quarantine.bad)} rows set aside: {_reasons(quarantine)}"] if quarantine.bad else []


def _left_out(table: MetricTable) -> list[str]:
    notes = []
    if table.missing_products:
        notes.append(f"{table.missing_products} judged products are not in the catalogue and count as not found")
    if table.left_out:
        notes.append(f"{table.left_out} queries have no relevant product and are in no mean")
    return notes
