"""`make-jax train`: prepared data and an experiment become a run directory."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from data_pipelines.dataset import PreparedData, open_data
from data_pipelines.decode import AugmentSpec
from data_pipelines.input import catalogue_batches, query_batches, train_batches
from data_pipelines.tokenizer import load_tokenizer
from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.retrieval.encode import Encoder
from make_jax.retrieval.exact import exact_top_k
from make_jax.retrieval.metrics import Qrels, evaluate_rankings
from make_jax.run import finish_run, read_metrics, start_run
from make_jax.training.loop import Evaluate, Feed, Outcome, mesh_for, train

log = logging.getLogger(__name__)


class Progress(NamedTuple):
    """How far a run is: the steps done, and whether those are all that were asked for."""

    step: int
    finished: bool


def train_run(experiment: Experiment, data_path: Path, workdir: Path) -> Progress:
    """Train `experiment` on prepared data into a run directory; goes on where an earlier call stopped.

    Raises:
      UserError, DataError: the data, the run directory or the configuration do not fit together; then nothing
        was written.
    """
    data = open_data(data_path)
    experiment = _complete(experiment, data)
    mesh_for(experiment)  # refused before a run directory exists
    start_run(workdir, experiment, data.tokenizer_path, data_path, data.fingerprint)
    if (workdir / "result.json").exists():
        log.info("%s is trained to its last step already", workdir)
        return Progress(experiment.training.steps, True)

    def batches(start_step: int) -> Feed:
        return _training_batches(data, experiment, start_step)

    outcome = train(experiment, workdir, batches, _dev_evaluation(data, experiment))
    if outcome.finished:
        _finish(workdir, outcome)
    return Progress(outcome.step, outcome.finished)


def _complete(experiment: Experiment, data: PreparedData) -> Experiment:
    """Fill in what the data decides, and refuse what it contradicts."""
    size = load_tokenizer(data.tokenizer_path).vocab_size
    if experiment.model.vocab_size not in (None, size):
        raise UserError(
            f"model.vocab_size is {experiment.model.vocab_size}, but the tokenizer of {data.path} has {size} entries; "
            "leave model.vocab_size unset"
        )
    if len(data.interactions["query_index"]) == 0:
        raise UserError(
            f"{data.path}: there are no clicks to learn from; run make-jax prepare again with --interactions"
        )
    return dataclasses.replace(experiment, model=dataclasses.replace(experiment.model, vocab_size=size))


def _training_batches(data: PreparedData, experiment: Experiment, start_step: int) -> Feed:
    model, settings = experiment.model, experiment.data
    batches = train_batches(
        data,
        batch_size=experiment.training.batch_size,
        seed=experiment.training.seed,
        start_step=start_step,
        image_size=(model.image.height, model.image.width),
        max_query_tokens=model.query.max_tokens,
        max_title_tokens=model.title.max_tokens,
        max_product_queries=settings.product_queries,
        augment=AugmentSpec(min_scale=settings.crop, flip=settings.flip),
        popularity_power=settings.popularity_power,
        purchase_weight=settings.purchase_weight,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        prefetch=settings.prefetch,
    )
    if batches.share_truncated:
        log.warning(
            "%.1f %% of the products were clicked under more than data.product_queries=%d queries; the rest of their "
            "queries may take them as negatives",
            100 * batches.share_truncated,
            settings.product_queries,
        )
    return batches


def _dev_evaluation(data: PreparedData, experiment: Experiment) -> Evaluate:
    """Metrics of the dev queries over the whole catalogue by exact search; nothing where there are none."""
    dev = data.dev
    if dev is None:
        return lambda params: {}
    model, size = experiment.model, experiment.training.eval_batch_size
    encoder, tokenizer = Encoder(build_model(experiment)), load_tokenizer(data.tokenizer_path)
    qrels = Qrels.from_arrays(
        np.asarray(dev.query_ids, object)[dev.qrels["query_index"]],
        data.product_ids[dev.qrels["product_index"]],
        dev.qrels["relevance"],
    )

    def evaluate(params: Any) -> dict[str, float]:
        queries = encoder.queries(
            params, query_batches(dev.queries, tokenizer, batch_size=size, max_query_tokens=model.query.max_tokens)
        )
        image_size = (model.image.height, model.image.width)
        with catalogue_batches(
            data, batch_size=size, image_size=image_size, max_title_tokens=model.title.max_tokens
        ) as batches:
            products = encoder.all_products(params, batches)
        _, ranking = exact_top_k(queries, products.vectors, qrels.depth(dev.query_ids))
        metrics = evaluate_rankings(ranking, products.product_ids, qrels, dev.query_ids).means()
        log.info("dev: R-precision %.4f, nDCG@10 %.4f", metrics["r_precision"], metrics["ndcg@10"])
        return metrics

    return evaluate


def _finish(workdir: Path, outcome: Outcome) -> None:
    records = read_metrics(workdir / "metrics.jsonl")
    dev = [
        {k: v for k, v in record.items() if k.startswith("dev/")} for record in records if "dev/r_precision" in record
    ]
    finish_run(workdir, jax.device_get(outcome.params), {"steps": outcome.step, "dev": dev[-1] if dev else {}})
