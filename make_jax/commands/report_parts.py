"""From what evaluation computed to what the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from make_jax.commands.catalogue import Catalogue, Shown
from make_jax.commands.judging import Judged
from make_jax.retrieval import report_data
from make_jax.retrieval.groups import GroupTable
from make_jax.retrieval.index import Index
from make_jax.run import Run

DEFINITIONS = {
    "r_precision": "share of fully relevant products among the first n results, n = how many there are",
    "ndcg@10": "discounted gain of the first 10 results (fully relevant 3, right kind 1) over the best possible",
    "p@10": "fully relevant products in the first 10, of those possible there",
    "recall@100": "fully relevant products in the first 100, of those possible there",
    "recall_plain@100": "fully relevant products in the first 100, of all there are",
    "mrr": "1 / rank of the first fully relevant product",
    "hit_rate@10": "share of queries with a fully relevant product in the first 10",
}
SHOWN_QUERIES, SHOWN_RESULTS, EXTREME_QUERIES = 12, 10, 6
MAX_SEGMENT_NAMES = 30


def shown_products(judged: Judged) -> set[str]:
    """Ids of the products that the report may show."""
    rows = judged.rankings[judged.main].rows[:, :SHOWN_RESULTS]
    return {str(product_id) for product_id in judged.product_ids[np.unique(rows[rows >= 0])]}


def segments(judged: Judged, column: str) -> list[report_data.Segment]:
    """Metrics of one column by every further column of the queries that has few values."""
    table, found = judged.columns[column], []
    for name in judged.queries.columns.difference(["query_id", "query"], sort=False):
        values = judged.queries[name].astype("string").fillna("–")
        if not 2 <= values.nunique() <= MAX_SEGMENT_NAMES:
            continue
        for value, count in values.value_counts().items():
            means = _shown_metrics(table.means(np.asarray(values == value)))
            found.append(report_data.Segment(name, str(value), int(count), means))
    return found


def groups(tables: Mapping[str, Sequence[GroupTable]]) -> list[report_data.Group]:
    """Metrics of groups of products, for every column."""
    return [
        report_data.Group(
            group.split,
            group.name,
            column,
            group.queries,
            group.pairs,
            _shown_metrics(group.table.means()),
            group.matched_mean,
            group.matched_queries,
        )
        for column, of_column in tables.items()
        for group in of_column
    ]


class Examples(NamedTuple):
    """The queries that a report shows, with what was found for them."""

    samples: list[report_data.QueryResults]
    worst: list[report_data.QueryResults]
    best: list[report_data.QueryResults]


def examples(judged: Judged, catalogue: Catalogue) -> Examples:
    """A random sample of the queries, and those of the lowest and highest R-precision."""
    headline = judged.columns[judged.main].values["r_precision"]
    order = np.argsort(np.where(np.isnan(headline), np.inf, headline), kind="stable")
    order = order[~np.isnan(headline[order])]
    rng = np.random.default_rng(0)  # the same queries in every report, so that two can be laid side by side
    sample = np.sort(rng.choice(order, min(SHOWN_QUERIES, len(order)), replace=False))
    chosen = (sample, order[:EXTREME_QUERIES], order[::-1][:EXTREME_QUERIES])
    return Examples(*([_query_results(judged, catalogue, int(row)) for row in rows] for rows in chosen))


def _query_results(judged: Judged, catalogue: Catalogue, row: int) -> report_data.QueryResults:
    query, table, ranking = judged.queries.iloc[row], judged.columns[judged.main], judged.rankings[judged.main]
    span = judged.qrels.spans([query["query_id"]])[0]
    judged_ids = judged.qrels.product_ids[judged.qrels.products[span]]
    grades = dict(zip(judged_ids, judged.qrels.relevance[span].tolist(), strict=True))
    results = []
    for product, score in zip(ranking.rows[row, :SHOWN_RESULTS], ranking.scores[row], strict=False):
        if product < 0:
            break
        product_id = str(judged.product_ids[product])
        shown = catalogue.shown.get(product_id, Shown("", b""))
        text, image = (None, None) if judged.weights is None else judged.weights[product].tolist()
        grade = grades.get(product_id, 0)
        results.append(
            report_data.Result(product_id, shown.title, float(score), grade, shown.image or None, text, image)
        )
    metrics = {name: float(table.values[name][row]) for name in ("r_precision", "ndcg@10", "p@10")}
    return report_data.QueryResults(query["query"], metrics, results, int(table.relevant[row]))


def category_weights(judged: Judged, catalogue: Catalogue) -> list[report_data.CategoryWeights]:
    """The text weights of each category; none where no model is judged."""
    if judged.weights is None:
        return []
    frame = pd.DataFrame({
        "category": [catalogue.categories.get(product_id, "") for product_id in judged.product_ids],
        "weight": judged.weights[:, 0],
    })  # fmt: skip
    by_category = frame[frame["category"] != ""].groupby("category")["weight"]
    return [
        report_data.CategoryWeights(str(name), len(group), float(group.mean()), float(group.std(ddof=0)))
        for name, group in by_category
    ]


def kind_weights(judged: Judged, truth: Path) -> list[report_data.KindWeights]:
    """The text weights of each kind of the synthetic catalogue."""
    assert judged.weights is not None
    table = pd.read_parquet(truth, columns=["product_id", "kind", "asked_in"]).set_index("product_id")
    table = table.join(pd.Series(judged.weights[:, 0], index=judged.product_ids, name="weight"), how="inner")
    return [
        report_data.KindWeights(str(kind), cast(Any, asked_in), group["weight"].tolist())
        for (kind, asked_in), group in table.groupby(["kind", "asked_in"])
    ]


def tuning(index: Index | None) -> list[report_data.TuningPoint]:
    """Every setting of the index that was measured; none without one."""
    if index is None:
        return []
    chosen = index.manifest["parameters"]
    return [
        report_data.TuningPoint(
            point["recall"],
            point["queries_per_second"],
            {name: value for name, value in point["parameters"].items() if value is not None},
            point["parameters"] == chosen,
        )
        for point in index.manifest["tuning"]["curve"]
    ]


def run_facts(run: Run | None, records: Sequence[Mapping[str, Any]], origin: Mapping[str, Any]) -> report_data.RunFacts:
    """Where the model comes from, or without one where the evaluation does; `origin` is the latter's provenance."""
    if run is None:
        return report_data.RunFacts(
            commit=origin["commit"] or "",
            command=origin["command"],
            hardware=origin["hardware"],
            date=origin["date"],
            versions=origin["versions"],
        )
    return report_data.RunFacts(
        experiment=run.experiment.name,
        commit=run.origin["commit"] or "",
        command=f"{run.origin['command']}\n{origin['command']}",
        hardware=run.origin["hardware"],
        seed=run.experiment.training.seed,
        date=run.origin["date"],
        versions=run.origin["versions"],
        training_seconds=sum(record.get("seconds", 0.0) for record in records),
        parameters=run.result["parameters"],
    )


def shown_metrics(judged: Judged) -> dict[str, dict[str, float]]:
    """The means that the report shows, by column."""
    return {name: _shown_metrics(table.means()) for name, table in judged.columns.items()}


def _shown_metrics(means: Mapping[str, float]) -> dict[str, float]:
    return {name: means[name] for name in DEFINITIONS}
