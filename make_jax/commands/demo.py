"""`make-jax demo`: every step of the main job in order, on the synthetic catalogue."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from data_pipelines.prepare import prepare
from data_pipelines.synthetic import SyntheticSpec, write_catalogue
from experiments import demo
from make_jax.commands.embed import embed_products, embed_queries
from make_jax.commands.evaluate import evaluate
from make_jax.commands.train import train_run
from make_jax.overrides import apply_overrides
from make_jax.retrieval.embeddings import read_embeddings
from make_jax.retrieval.index import build_index

log = logging.getLogger(__name__)


def run_demo(workdir: Path, seed: int = 0) -> Path | None:
    """Synthetic products → dataset → model → vectors → index → report, under `workdir`; returns the report.

    Running it again goes on: a trained model is not trained twice.

    Returns:
      The report's path; None if a signal stopped the training, which is saved.

    Raises:
      UserError: `workdir` holds something that is not a demo with this seed.
    """
    began = time.perf_counter()
    spec = SyntheticSpec(seed=seed)
    log.info("1/6 drawing %d products", spec.products)
    tables = write_catalogue(spec, workdir / "catalogue")
    queries, qrels = str(tables.queries), str(tables.qrels)
    log.info("2/6 preparing the dataset")
    summary = prepare(
        products=tables.products,
        interactions=str(tables.interactions),
        queries=queries,
        qrels=qrels,
        out=workdir / "data",
    )
    log.info("%s", summary.text())
    experiment = apply_overrides(demo.get_config(), [f"training.seed={seed}"])
    log.info("3/6 training %d steps", experiment.training.steps)
    run = workdir / "run"
    outcome = train_run(experiment, [str(workdir / "data")], run)
    if not outcome.finished:
        return None
    log.info("4/6 embedding the catalogue")
    vectors = workdir / "products.parquet"
    embed_products(run, [tables.products], vectors)
    embed_queries(run, queries, workdir / "queries.parquet")
    log.info("5/6 building the index")
    tune_on = read_embeddings(workdir / "queries.parquet", "queries")
    log.info("%s", build_index(vectors, workdir / "index", queries=tune_on))
    log.info("6/6 judging it")
    out = workdir / "report"
    evaluate(run, queries, qrels, out, index=workdir / "index", products=[tables.products], truth=tables.truth)
    log.info("done in %.0f s", time.perf_counter() - began)
    return out / "report.html"
