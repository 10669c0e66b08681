"""`make-jax train`: prepared data and an experiment become a run directory."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.cache import CachedData
from data_pipelines.hard_negatives import HardNegatives, open_negatives
from data_pipelines.input import catalogue_batches, query_batches, train_batches
from data_pipelines.plans import TrainPlans
from data_pipelines.prepared import ProductData
from data_pipelines.query_arrays import QueryOutput
from data_pipelines.tokenizer import load_tokenizer
from make_jax.commands.feeding import (
    augmentation,
    batch_shape,
    check_pictures,
    feed_options,
    open_training_data,
    sampling,
    text_outputs,
)
from make_jax.commands.start_from import initial_parameters
from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.retrieval.encode import Encoder
from make_jax.retrieval.exact import exact_top_k
from make_jax.retrieval.metrics import METRICS, Qrels, evaluate_rankings
from make_jax.run import finish_run, read_metrics, start_run
from make_jax.training.feed import Feed
from make_jax.training.hosts import on_first, whole_on_host
from make_jax.training.keeping import dev_metrics, dev_record
from make_jax.training.loop import Evaluate, Outcome, mesh_for, train
from make_jax.training.mesh import batch_sharding, check_rules
from make_jax.training.optimizer import check_patterns
from make_jax.training.wandb_board import check_wandb

log = logging.getLogger(__name__)


class Progress(NamedTuple):
    """How far a run is: the steps done, and whether those are all that were asked for."""

    step: int
    finished: bool


def train_run(experiment: Experiment, data_choices: Sequence[str], workdir: Path, profile: bool = False) -> Progress:
    """Train `experiment` on data into a run directory; goes on where an earlier call stopped.

    Args:
      experiment: what to train.
      data_choices: see `open_training_data`.
      workdir: the run directory.
      profile: whether to trace a few steps.

    Raises:
      UserError, DataError: the data, the run directory or the configuration do not fit together; then nothing
        was written.
    """
    data, paths = open_training_data(data_choices)
    experiment = complete(experiment, data)
    mesh = mesh_for(experiment)  # like the next lines: refused before a run directory exists
    _check_patterns(experiment)
    _check_best(experiment, data)
    titles, query_output = text_outputs(experiment, data)
    negatives = _hard_negatives(experiment, data)
    plans = _training_plans(data, experiment, query_output, negatives)
    initial = functools.cache(lambda: initial_parameters(experiment, data.tokenizer_path))
    mined = {"path": negatives.path, "fingerprint": negatives.fingerprint, **negatives.made_from} if negatives else None

    def begin() -> bool:
        """Make or check the run directory; whether the run in it is done."""
        check_wandb(experiment.training.wandb)
        # A run that is under way needs the one that it came from no more.
        origin = None if (workdir / "experiment.json").exists() else initial()
        start_run(workdir, experiment, data.tokenizer_path, paths, data.fingerprint, origin and origin.origin, mined)
        return (workdir / "result.json").exists()

    if on_first(begin):
        log.info("%s is trained to its last step already", workdir)
        return Progress(experiment.training.steps, True)

    def batches(start_step: int) -> Feed:
        return train_batches(
            data,
            plans,
            start_step=start_step,
            augment=augmentation(experiment),
            titles=titles,
            options=feed_options(experiment),
        )

    def first_params() -> Mapping[str, np.ndarray]:
        taken = initial()
        return taken.params if taken else {}

    outcome = train(experiment, workdir, batches, _dev_evaluation(data, experiment, mesh), first_params, profile)
    if outcome.finished:
        _finish(workdir, outcome)
    return Progress(outcome.step, outcome.finished)


def complete(experiment: Experiment, data: ProductData) -> Experiment:
    """Fill in what the data decides; raises UserError for what it contradicts."""
    tokenizer = load_tokenizer(data.tokenizer_path)
    model, size = experiment.model, tokenizer.vocab_size
    if model.vocab_size not in (None, size):
        raise UserError(
            f"model.vocab_size is {model.vocab_size}, but the tokenizer of {data.path} has {size} entries; "
            "leave model.vocab_size unset"
        )
    if not len(data.interactions["query_index"]):
        if not len(data.pseudo_pairs["query_index"]):
            raise UserError(
                f"{data.path}: there are no clicks to learn from; run make-jax prepare again with --interactions"
            )
        log.warning("%s has no clicks: the model learns from queries made up of the titles alone", data.path)
    check_pictures(experiment, data)
    image = dataclasses.replace(model.image, region_width=data.region_width or None)
    model = dataclasses.replace(model, vocab_size=size, pad_id=tokenizer.pad_id, image=image)
    training = experiment.training
    if training.init_from:  # a run goes on from anywhere
        training = dataclasses.replace(training, init_from=str(Path(training.init_from).absolute()))
    if training.negatives:
        training = dataclasses.replace(training, negatives=str(Path(training.negatives).absolute()))
    return dataclasses.replace(experiment, model=model, training=training)


def _check_patterns(experiment: Experiment) -> None:
    params = jax.eval_shape(build_model(experiment).init, jax.random.key(0))
    check_patterns(experiment.optimizer, params)
    check_rules(experiment.mesh.rules, params)


def _check_best(experiment: Experiment, data: ProductData) -> None:
    """Refuse to keep the best checkpoints by a metric that dev evaluation does not give."""
    training = experiment.training
    if not training.keep_best:
        return
    if data.dev is None:
        raise UserError(
            f"training.keep_best is {training.keep_best}, but {data.path} has no dev queries to judge by; prepare it "
            "with --queries and --qrels, or set training.keep_best=0"
        )
    if training.best_metric not in METRICS:
        raise UserError(
            f"training.best_metric is {training.best_metric!r}, but dev evaluation gives {', '.join(METRICS)}; name "
            "one of these"
        )


def _hard_negatives(experiment: Experiment, data: ProductData) -> HardNegatives | None:
    """The mined negatives that the experiment asks for; UserError or DataError where there are none that fit."""
    path, count = experiment.training.negatives, experiment.objectives.hard_negatives
    if path is None and count:
        raise UserError(
            f"objectives.hard_negatives is {count}, but there is no --negatives; make some with make-jax mine, or set "
            "objectives.hard_negatives=0"
        )
    if path is None:
        return None
    if count == 0:
        raise UserError(
            f"--negatives {path} is given, but objectives.hard_negatives is 0, so that none is used; set "
            "objectives.hard_negatives=2"
        )
    negatives = open_negatives(Path(path), count)
    negatives.check(data.path, data.fingerprint)
    return negatives


def _training_plans(
    data: ProductData,
    experiment: Experiment,
    query_output: QueryOutput | None,
    negatives: HardNegatives | None,
) -> TrainPlans:
    plans = TrainPlans(
        data,
        sampling(experiment),
        batch_shape(experiment),
        jax.process_index(),
        jax.process_count(),
        query_output,
        negatives,
    )
    if plans.share_truncated:
        log.warning(
            "%.1f %% of the products were clicked under more than data.product_queries=%d queries; the rest of their "
            "queries may take them as negatives",
            100 * plans.share_truncated,
            experiment.data.product_queries,
        )
    if isinstance(data, CachedData):
        data.check(plans.shape, augmentation(experiment))
    return plans


def _dev_evaluation(data: ProductData, experiment: Experiment, mesh: Mesh) -> Evaluate:
    """Metrics of the dev queries over their whole catalogue by exact search; nothing where there are none."""
    dev = data.dev
    if dev is None:
        return lambda params: {}
    model, size = experiment.model, experiment.training.eval_batch_size
    split = batch_sharding(mesh) if mesh.size > 1 else None
    encoder, tokenizer = Encoder(build_model(experiment), split), load_tokenizer(data.tokenizer_path)
    qrels = Qrels.from_arrays(
        np.asarray(dev.query_ids, object)[dev.qrels["query_index"]],
        data.product_ids[dev.qrels["product_index"]],
        dev.qrels["relevance"],
    )

    def evaluate(params: Any) -> dict[str, float]:
        queries = encoder.queries(
            params, query_batches(dev.queries, tokenizer, batch_size=size, max_query_tokens=model.query.max_tokens)
        )
        with catalogue_batches(
            data, batch_shape(experiment), batch_size=size, stop=dev.num_products, options=feed_options(experiment)
        ) as batches:
            products = encoder.all_products(params, batches)
        _, ranking = exact_top_k(queries, products.vectors, qrels.depth(dev.query_ids))
        metrics = evaluate_rankings(ranking, products.product_ids, qrels, dev.query_ids).means()
        log.info("dev: R-precision %.4f, nDCG@10 %.4f", metrics["r_precision"], metrics["ndcg@10"])
        return metrics

    return evaluate


def _finish(workdir: Path, outcome: Outcome) -> None:
    params = whole_on_host(outcome.params)

    def write() -> None:
        judged = dev_metrics(read_metrics(workdir / "metrics.jsonl"))
        dev = dev_record(judged[max(judged)]) if judged else {}
        finish_run(workdir, params, {"steps": outcome.step, "dev": dev})

    on_first(write)
