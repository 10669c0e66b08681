"""`make-jax evaluate`: metrics of a model, BM25 or both over a catalogue, as files and a report to look at."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.errors import DataError
from make_jax.commands import catalogue as catalogues
from make_jax.commands import report_parts
from make_jax.commands.catalogue import Catalogue
from make_jax.commands.judging import Judged, judge
from make_jax.commands.product_groups import read_word_lists, splits_of
from make_jax.commands.systems import Hybrid, HybridChoice, Systems, Vectors
from make_jax.errors import UserError
from make_jax.retrieval.groups import GroupTable
from make_jax.retrieval.index import Index
from make_jax.retrieval.per_query import ALL, write_per_query
from make_jax.retrieval.per_query import NAME as PER_QUERY
from make_jax.retrieval.report import write_report
from make_jax.retrieval.report_data import ReportData
from make_jax.run import Run, provenance, read_metrics
from make_jax.small_files import write_text


def evaluate(
    run_path: Path | None,
    queries: str,
    qrels: str,
    out: Path,
    index: Path | None = None,
    embeddings: Path | None = None,
    products: Sequence[str] = (),
    truth: Path | None = None,
    bm25: Path | None = None,
    hybrid: Hybrid | None = None,
    hybrid_weight: Path | None = None,
    interactions: str | None = None,
    words: Sequence[str] = (),
) -> dict[str, Any]:
    """Judge systems on queries over a whole catalogue; writes metrics.json, per_query.parquet and report.html.

    Args:
      run_path: a finished run; None to judge BM25 alone.
      queries: table of queries; further columns with few values become segments.
      qrels: table of judgements.
      out: folder of the report.
      index: an index directory; then exact and index search are judged side by side.
      embeddings: embeddings of products; with a run, one of `index` and `embeddings` is needed.
      products: product tables to know titles, pictures and words from; by default the data the run was trained on.
      truth: the synthetic catalogue's truth table, to plot the weights by where a kind's attributes are.
      bm25: a BM25 directory, to judge beside the run, or alone.
      hybrid: how to join vectors and BM25, "rrf" or "learned"; None not to.
      hybrid_weight: the learned weight; None to learn it here, for each query from others.
      interactions: click log that tells which products were ever clicked; by default that of the training data.
      words: word lists, as NAME=FILE, to look for in titles.

    Returns:
      What metrics.json holds.

    Raises:
      UserError, DataError: inputs that are unusable or do not belong together.
    """
    choice = HybridChoice.of(hybrid, hybrid_weight, bm25, has_run=run_path is not None)
    word_lists = read_word_lists(words)
    if run_path is None and (index or embeddings):
        raise UserError("--index and --embeddings need the model that made them; give --run")
    vectors = Vectors.open(run_path, index, embeddings) if run_path else None
    judged = judge(Systems.open(vectors, bm25, choice), queries, qrels)
    run, loaded = (vectors.model.run, vectors.index) if vectors else (None, None)
    catalogue = _catalogue(run, judged, products, interactions)
    if word_lists and not catalogue.titles:
        raise UserError("--words looks for words in titles; give --products, the tables that have them")
    groups = judged.groups(splits_of(judged, catalogue, word_lists))
    metrics = _metrics(judged, groups, vectors, loaded)
    records = read_metrics(run.path / "metrics.jsonl") if run else []
    headline = judged.columns[judged.main].values["r_precision"]
    examples = report_parts.examples(judged, catalogue)
    data = ReportData(
        title=f"{_name(run, vectors)}: {len(judged.product_ids):,} products, {len(judged.queries):,} queries",
        run=report_parts.run_facts(run, records, metrics),
        products=len(judged.product_ids),
        queries=len(judged.queries),
        metrics=report_parts.shown_metrics(judged),
        definitions=report_parts.DEFINITIONS,
        headline_per_query=headline[~np.isnan(headline)].tolist(),
        segments=report_parts.segments(judged, judged.main),
        groups=report_parts.groups(groups),
        samples=examples.samples,
        worst=examples.worst,
        best=examples.best,
        category_weights=report_parts.category_weights(judged, catalogue),
        kind_weights=report_parts.kind_weights(judged, truth) if truth else [],
        training=records,
        tuning=report_parts.tuning(loaded),
        target_recall=loaded.manifest["target_recall"] if loaded else None,
        notes=judged.notes,
    )
    write_report(data, out)
    _write_per_query(judged, groups, out)
    write_text(out / "metrics.json", json.dumps(_json_safe(metrics), indent=2) + "\n")
    return metrics


def _metrics(
    judged: Judged, groups: Mapping[str, Sequence[GroupTable]], vectors: Vectors | None, index: Index | None
) -> dict[str, Any]:
    """What metrics.json holds."""
    segments = {column: report_parts.segments(judged, column) for column in judged.columns}
    return {
        "metrics": {name: table.means() for name, table in judged.columns.items()},
        "queries": len(judged.queries),
        "queries_without_relevant": judged.columns[judged.main].left_out,
        "products": len(judged.product_ids),
        "segments": [{"column": column} | vars(row) for column, rows in segments.items() for row in rows],
        "groups": [dataclasses.asdict(group) for group in report_parts.groups(groups)],
        "weight_text": float(judged.weights[:, 0].mean()) if judged.weights is not None else None,
        "without": vectors.without if vectors else None,
        "hybrid": judged.hybrid,
        "index": _index_facts(index),
        "model_fingerprint": vectors.model.run.fingerprint if vectors else None,
        "notes": judged.notes,
        **provenance(),
    }


def _name(run: Run | None, vectors: Vectors | None) -> str:
    if run is None or vectors is None:
        return "BM25"
    return f"{run.experiment.name} without {vectors.without}" if vectors.without else run.experiment.name


def _catalogue(run: Run | None, judged: Judged, products: Sequence[str], interactions: str | None) -> Catalogue:
    """What is known of the products; little where neither tables nor the training data are to be had."""
    wanted = report_parts.shown_products(judged)
    prepared = Catalogue()
    if run is not None:
        try:
            prepared = catalogues.from_prepared(run.origin["data"], () if products else wanted)
        except DataError as error:
            judged.notes.append(f"the data the run was trained on is gone, so less is shown ({error})")
    catalogue = catalogues.from_tables(products, wanted) if products else prepared
    clicked = catalogues.clicked_in(interactions, judged.product_ids) if interactions else prepared.clicked
    return dataclasses.replace(catalogue, clicked=clicked)


def _write_per_query(judged: Judged, groups: Mapping[str, Sequence[GroupTable]], out: Path) -> None:
    query_ids = judged.columns[judged.main].query_ids
    tables: list[tuple[str, str, Mapping[str, np.ndarray]]] = []
    for column, table in judged.columns.items():
        tables.append((column, ALL, table.values))
        for group in groups[column]:
            tables.append((column, group.name, group.table.values | {"r_precision_matched": group.matched}))
    write_per_query(out / PER_QUERY, query_ids, tables, judged.texts, judged.qrels)


def _index_facts(index: Index | None) -> dict[str, Any] | None:
    if index is None:
        return None
    names = ("builder", "parameters", "target_recall", "recall", "queries_per_second", "scann_version")
    return {name: index.manifest[name] for name in names}


def _json_safe(value: Any) -> Any:
    """NaN, the mean of an empty segment, is no JSON: it becomes null."""
    if isinstance(value, dict):
        return {key: _json_safe(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_safe(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
