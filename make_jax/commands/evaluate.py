"""`make-jax evaluate`: metrics of a model over a catalogue, as metrics.json and a report to look at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from data_pipelines.errors import DataError
from data_pipelines.log_checks import QrelChecker, checked_queries
from data_pipelines.quarantine import Quarantine
from make_jax.commands import catalogue as catalogues
from make_jax.commands.embed import TrainedModel
from make_jax.errors import UserError
from make_jax.retrieval import report
from make_jax.retrieval.embeddings import read_embeddings
from make_jax.retrieval.exact import exact_top_k
from make_jax.retrieval.index import Index, load_index
from make_jax.retrieval.metrics import MetricTable, Qrels, evaluate_rankings
from make_jax.run import Run, provenance, read_metrics, write_text

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


@dataclass(frozen=True)
class Judged:
    """Everything that evaluation has computed, before it is written down.

    Attributes:
      queries: query_id, query and any further columns, one row a query.
      columns: "exact" and, with an index, "index": metrics of every query.
      product_ids: object[N] of str.
      ranking: int32[Nq, K], rows of `product_ids` by exact search.
      scores: float32[Nq, K].
      weights: float32[N, 2], title and picture.
      grades: (query_id, product_id) → relevance.
    """

    queries: pd.DataFrame
    columns: dict[str, MetricTable]
    product_ids: np.ndarray
    ranking: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    grades: dict[tuple[str, str], int]
    notes: list[str]


def evaluate(
    run_path: Path,
    queries: str,
    qrels: str,
    out: Path,
    index: Path | None = None,
    embeddings: Path | None = None,
    products: Sequence[str] = (),
    truth: Path | None = None,
) -> dict[str, Any]:
    """Judge a run on queries over a whole catalogue; writes `metrics.json` and `report.html` into `out`.

    Args:
      run_path: a finished run.
      queries: table of queries; further columns with few values become segments.
      qrels: table of judgements.
      out: folder of the report.
      index: an index directory; then exact and index search are judged side by side.
      embeddings: embeddings of products; one of `index` and `embeddings` is needed.
      products: product tables to show titles and pictures from; by default the data the run was trained on.
      truth: the synthetic catalogue's truth table, to plot the weights by where a kind's attributes are.

    Returns:
      What metrics.json holds.

    Raises:
      UserError, DataError: inputs that are unusable or do not belong together.
    """
    if (index is None) == (embeddings is None):
        raise UserError("evaluate needs either --index or --embeddings, and not both")
    model = TrainedModel.open(run_path)
    loaded = load_index(index) if index else None
    judged = _judge(model, loaded, embeddings, queries, qrels)
    catalogue, segments = _catalogue(model.run, judged, products), _segments(judged)
    headline = judged.columns["exact"].values["r_precision"]
    metrics = {
        "metrics": {name: table.means() for name, table in judged.columns.items()},
        "queries": len(judged.queries),
        "queries_without_relevant": judged.columns["exact"].left_out,
        "products": len(judged.product_ids),
        "segments": [vars(segment) for segment in segments],
        "weight_text": float(judged.weights[:, 0].mean()),
        "index": _index_facts(loaded),
        "model_fingerprint": model.run.fingerprint,
        **provenance(),
    }
    records = read_metrics(run_path / "metrics.jsonl")
    order = np.argsort(np.where(np.isnan(headline), np.inf, headline), kind="stable")
    order = order[~np.isnan(headline[order])]
    rng = np.random.default_rng(0)  # the same queries in every report, so that two can be laid side by side
    sample = np.sort(rng.choice(order, min(SHOWN_QUERIES, len(order)), replace=False))
    data = report.ReportData(
        title=f"{model.run.experiment.name}: {len(judged.product_ids):,} products, {len(judged.queries):,} queries",
        run=_run_facts(model.run, records, metrics),
        products=len(judged.product_ids),
        queries=len(judged.queries),
        metrics={name: {m: means[m] for m in DEFINITIONS} for name, means in metrics["metrics"].items()},
        definitions=DEFINITIONS,
        headline_per_query=headline[~np.isnan(headline)].tolist(),
        segments=segments,
        samples=[_query_results(judged, catalogue, row) for row in sample],
        worst=[_query_results(judged, catalogue, row) for row in order[:EXTREME_QUERIES]],
        best=[_query_results(judged, catalogue, row) for row in order[::-1][:EXTREME_QUERIES]],
        category_weights=_category_weights(judged, catalogue),
        kind_weights=_kind_weights(judged, truth) if truth else [],
        training=records,
        tuning=_tuning(loaded),
        target_recall=loaded.manifest["target_recall"] if loaded else None,
        notes=judged.notes,
    )
    report.write_report(data, out)
    write_text(out / "metrics.json", json.dumps(_json_safe(metrics), indent=2) + "\n")
    return metrics


def _judge(
    model: TrainedModel, index: Index | None, embeddings: Path | None, queries_path: str, qrels_path: str
) -> Judged:
    quarantine = Quarantine()
    if index is not None:
        index.check_model(model.run.fingerprint)
        product_ids, vectors, weights = index.product_ids, index.vectors, index.weights
    else:
        product_ids, vectors, weights = _read_vectors(model, embeddings)
    table = checked_queries(queries_path, quarantine)
    # Any product id goes: one that the catalogue lacks counts as not found, which is what a shopper would see.
    judgements = QrelChecker(quarantine, None, set(table["query_id"].to_pylist())).qrels(qrels_path)
    if table.num_rows == 0 or judgements.num_rows == 0:
        raise UserError(
            f"{table.num_rows} queries in {queries_path} and {judgements.num_rows} judgements in {qrels_path} can be "
            f"used ({_reasons(quarantine)}); check that both tables use the same query_id"
        )
    qrels = Qrels.from_arrays(*(judgements[name].to_numpy() for name in ("query_id", "product_id", "relevance")))
    queries = table.to_pandas()
    query_vectors = model.encode_queries(queries["query"].tolist())
    depth = qrels.depth(queries["query_id"])
    scores, ranking = exact_top_k(query_vectors, vectors, depth)
    ranking_columns = {"exact": ranking}
    if index is not None:
        ranking_columns["index"] = index.search(query_vectors, depth).rows
    columns = {
        name: evaluate_rankings(rows, product_ids, qrels, queries["query_id"]) for name, rows in ranking_columns.items()
    }
    pairs = zip(*(judgements[name].to_pylist() for name in judgements.column_names), strict=True)
    return Judged(
        queries,
        columns,
        product_ids,
        ranking,
        scores,
        weights,
        {(q, p): r for q, p, r in pairs},
        _notes(quarantine, columns["exact"]),
    )


def _read_vectors(model: TrainedModel, path: Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    assert path is not None
    stored = read_embeddings(path, "products")
    if stored.fingerprint != model.run.fingerprint:
        raise UserError(
            f"{path} was made by model {stored.fingerprint[:12]}, but {model.run.path} is model "
            f"{model.run.fingerprint[:12]}; embed the catalogue again with this run"
        )
    assert stored.weight_text is not None
    assert stored.weight_image is not None
    return stored.ids, stored.vectors, np.stack([stored.weight_text, stored.weight_image], axis=1)


def _reasons(quarantine: Quarantine) -> str:
    reasons = [f"{count} {reason}" for name in quarantine.read for reason, count in quarantine.reasons(name).items()]
    return ", ".join(reasons) or "none set aside"


def _notes(quarantine: Quarantine, table: MetricTable) -> list[str]:
    notes = [f"{len(quarantine.bad)} rows set aside: {_reasons(quarantine)}"] if quarantine.bad else []
    if table.missing_products:
        notes.append(f"{table.missing_products} judged products are not in the catalogue and count as not found")
    if table.left_out:
        notes.append(f"{table.left_out} queries have no relevant product and are in no mean")
    return notes


def _catalogue(run: Run, judged: Judged, products: Sequence[str]) -> catalogues.Catalogue:
    """Titles and pictures of the results, and every category; empty where the products are not to be had."""
    wanted = {str(product_id) for product_id in np.unique(judged.product_ids[judged.ranking[:, :SHOWN_RESULTS]])}
    if products:
        return catalogues.from_tables(products, wanted)
    try:
        return catalogues.from_prepared(run.origin["data"], wanted)
    except DataError as error:
        judged.notes.append(f"no titles and pictures are shown, the data the run was trained on is gone ({error})")
        return catalogues.Catalogue({}, {})


def _segments(judged: Judged) -> list[report.Segment]:
    """Metrics by every further column of the queries that has few values."""
    table, segments = judged.columns["exact"], []
    for column in judged.queries.columns.difference(["query_id", "query"], sort=False):
        names = judged.queries[column].astype("string").fillna("–")
        if not 2 <= names.nunique() <= MAX_SEGMENT_NAMES:
            continue
        for name, count in names.value_counts().items():
            means = table.means(np.asarray(names == name))
            segments.append(report.Segment(column, str(name), int(count), {m: means[m] for m in DEFINITIONS}))
    return segments


def _query_results(judged: Judged, catalogue: catalogues.Catalogue, row: int) -> report.QueryResults:
    query, table = judged.queries.iloc[row], judged.columns["exact"]
    results = []
    for product, score in zip(judged.ranking[row, :SHOWN_RESULTS], judged.scores[row], strict=False):
        product_id = str(judged.product_ids[product])
        shown = catalogue.shown.get(product_id, catalogues.Shown("", b""))
        text, image = judged.weights[product].tolist()
        grade = judged.grades.get((query["query_id"], product_id), 0)
        results.append(report.Result(product_id, shown.title, float(score), grade, shown.image or None, text, image))
    metrics = {name: float(table.values[name][row]) for name in ("r_precision", "ndcg@10", "p@10")}
    return report.QueryResults(query["query"], metrics, results, int(table.relevant[row]))


def _category_weights(judged: Judged, catalogue: catalogues.Catalogue) -> list[report.CategoryWeights]:
    frame = pd.DataFrame({
        "category": [catalogue.categories.get(product_id, "") for product_id in judged.product_ids],
        "weight": judged.weights[:, 0],
    })  # fmt: skip
    groups = frame[frame["category"] != ""].groupby("category")["weight"]
    return [
        report.CategoryWeights(str(name), len(group), float(group.mean()), float(group.std(ddof=0)))
        for name, group in groups
    ]


def _kind_weights(judged: Judged, truth: Path) -> list[report.KindWeights]:
    table = pd.read_parquet(truth, columns=["product_id", "kind", "asked_in"]).set_index("product_id")
    table = table.join(pd.Series(judged.weights[:, 0], index=judged.product_ids, name="weight"), how="inner")
    return [
        report.KindWeights(str(kind), cast(Any, asked_in), group["weight"].tolist())
        for (kind, asked_in), group in table.groupby(["kind", "asked_in"])
    ]


def _tuning(index: Index | None) -> list[report.TuningPoint]:
    if index is None:
        return []
    chosen = index.manifest["parameters"]
    return [
        report.TuningPoint(
            point["recall"],
            point["queries_per_second"],
            {name: value for name, value in point["parameters"].items() if value is not None},
            point["parameters"] == chosen,
        )
        for point in index.manifest["tuning"]["curve"]
    ]


def _index_facts(index: Index | None) -> dict[str, Any] | None:
    if index is None:
        return None
    names = ("builder", "parameters", "target_recall", "recall", "queries_per_second", "scann_version")
    return {name: index.manifest[name] for name in names}


def _run_facts(run: Run, records: list[dict[str, Any]], metrics: dict[str, Any]) -> report.RunFacts:
    origin, seconds = run.origin, sum(record.get("seconds", 0.0) for record in records)
    return report.RunFacts(
        experiment=run.experiment.name,
        commit=origin.get("commit") or "",
        command=f"{origin['command']}\n{metrics['command']}",
        hardware=origin["hardware"],
        seed=run.experiment.training.seed,
        date=origin["date"],
        versions=origin["versions"],
        training_seconds=seconds,
        parameters=run.result["parameters"],
    )


def _json_safe(value: Any) -> Any:
    """NaN, the mean of an empty segment, is no JSON: it becomes null."""
    if isinstance(value, dict):
        return {key: _json_safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_safe(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
