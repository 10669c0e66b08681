"""The training loop, top to bottom: mesh → model → state → steps, with logs, evaluation and checkpoints between."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from make_jax.config import Experiment, TrainingConfig
from make_jax.model import build_model
from make_jax.run import read_metrics
from make_jax.training.checkpoints import Checkpoints
from make_jax.training.feed import DeviceFeed, Feed
from make_jax.training.hosts import is_first, on_first
from make_jax.training.keeping import Judged, dev_metrics, dev_record, why_kept
from make_jax.training.mesh import gathered, make_mesh, replaced
from make_jax.training.metrics_log import MetricsLog, NoMetrics
from make_jax.training.optimizer import hold as hold_frozen
from make_jax.training.optimizer import make_optimizer, make_schedule
from make_jax.training.profile import Profile
from make_jax.training.signals import stop_on_signal
from make_jax.training.step import Trainer, TrainState, make_trainer
from make_jax.training.utilisation import Utilisation, peak_flops
from make_jax.training.wandb_board import WandbBoard
from make_jax.training.watchdog import Watchdog
from make_jax.training.window import Window

log = logging.getLogger(__name__)


Batches = Callable[[int], Feed]
Evaluate = Callable[[Any], dict[str, float]]


class Outcome(NamedTuple):
    """How training ended: the parameters to use, the steps done, and whether there is nothing left to do.

    After the last step that is its evaluation.
    """

    params: Any
    step: int
    finished: bool


def train(
    experiment: Experiment,
    workdir: Path,
    batches: Batches,
    evaluate: Evaluate,
    initial: Callable[[], Mapping[str, np.ndarray]] = dict,
    profile: bool = False,
) -> Outcome:
    """Train from the last checkpoint in `workdir`, or from the start, to the end or to a signal.

    The state is saved before it is evaluated, so that evaluation may take as long as it likes. What was not evaluated
    because the run was told to stop, or killed, is evaluated when it goes on.

    Args:
      experiment: complete, so with the vocabulary size set.
      workdir: where checkpoints, `metrics.jsonl` and TensorBoard files go.
      batches: from a first step, the batches of that step and all that follow (this process' rows).
      evaluate: parameters → dev metrics; a signal leaves it at once.
      initial: parameters by path that take the place of fresh ones; asked for at the start only.
      profile: whether to trace a few steps, into `tensorboard/`.

    Raises:
      UserError: the batch does not fit the mesh, or a checkpoint cannot be restored.
      NonFiniteLoss: the loss or gradient of a step is not finite and is not to be skipped, or too many were.
    """
    # ---- mesh, model, state -----------------------------------------------------------------------------------------
    config = experiment.training
    mesh = mesh_for(experiment)
    trainer = trainer_for(experiment, mesh)
    schedule = make_schedule(experiment.optimizer, config.steps)
    judged: Judged = {}

    with closing(Checkpoints(workdir / "checkpoints", lambda steps: why_kept(config, steps, judged))) as checkpoints:
        # ---- resume -------------------------------------------------------------------------------------------------
        start = checkpoints.latest() or 0
        judged |= _judged_before(workdir, start)
        if start:
            state = checkpoints.restore(start, trainer.shapes, trainer.shardings)
            log.info("resuming at step %d of %d", start, config.steps)
        else:
            state = trainer.init()
            state = state._replace(params=replaced(state.params, initial()))

        # ---- steps --------------------------------------------------------------------------------------------------
        with (
            _metrics_log(experiment, workdir, start) as metrics_log,
            stop_on_signal() as stop,
            DeviceFeed(batches(start), mesh) as feed,
            Watchdog(config) as watchdog,
            Window(metrics_log, config, schedule, start, watchdog, _utilisation(experiment)) as window,
            Profile(workdir / "tensorboard" if profile else None, start, config.steps) as tracing,
        ):

            def judge(step: int, state: TrainState) -> bool:
                """Evaluate a step, unless told to stop; whether that was done."""
                with watchdog.waiting("evaluation", step):
                    dev = stop.unless_stopped(lambda: evaluate(state.settled))
                if dev:
                    judged[step] = dev
                    metrics_log.write(step, dev_record(dev))
                window.restart()
                return dev is not None

            step, whole = start, True
            if _evaluated(step, config) and step not in judged:
                whole = judge(step, state)
            while step < config.steps and not stop.heard(step):
                with tracing.step(step + 1):
                    with window.waiting(), watchdog.waiting("input", step + 1, detail=lambda: feed.doing):
                        batch = stop.unless_stopped(lambda: next(feed))
                    if batch is None:
                        break
                    # What is not on the devices by now has been forgotten, and would be sent again in every step.
                    with watchdog.waiting("launch", step + 1), jax.transfer_guard("disallow"):
                        state, metrics = trainer.step(state, batch)
                step += 1
                tracing.done(step, metrics)
                window.add(step, batch, metrics)
                evaluated = _evaluated(step, config)
                checkpoint = evaluated or _due(step, config.checkpoint_every)
                if checkpoint or _due(step, config.log_every):
                    window.close(feed.set_aside)
                if checkpoint:
                    metrics_log.flush()
                    with watchdog.waiting("checkpoint", step):
                        checkpoints.save(step, state)
                if evaluated:
                    whole = judge(step, state)
            # The end, or a signal: what is not saved yet is saved now, its numbers first.
            window.close(feed.set_aside)
            metrics_log.flush()
            with watchdog.waiting("checkpoint", step):
                checkpoints.save(step, state)
                checkpoints.prune()
    return Outcome(state.settled, step, step == config.steps and whole)


def _judged_before(workdir: Path, step: int) -> Judged:
    """The dev metrics up to a step, as an earlier part of this run wrote them; the same on all processes."""
    found = on_first(lambda: list(dev_metrics(read_metrics(workdir / "metrics.jsonl"), step).items()))
    return dict(found)


def _evaluated(step: int, config: TrainingConfig) -> bool:
    return step > 0 and (_due(step, config.eval_every) or step == config.steps)


def mesh_for(experiment: Experiment, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The experiment's mesh over all devices, or those given; raises UserError where these and the batch do not fit."""
    mesh = make_mesh(experiment.mesh, devices)
    experiment.training.check_mesh(mesh.shape["data"], mesh.shape["fsdp"])
    return mesh


def trainer_for(experiment: Experiment, mesh: Mesh) -> Trainer:
    """The experiment's init and train step over a mesh."""

    def hold(params: Any) -> Any:
        return gathered(hold_frozen(experiment.optimizer, params), mesh, experiment.mesh.rules)

    return make_trainer(
        build_model(experiment),
        make_optimizer(experiment.optimizer, experiment.training.steps),
        mesh,
        experiment.training.seed,
        hold,
        experiment.mesh.rules,
        experiment.training.microbatches,
        experiment.training.ema_decay,
        experiment.training,
    )


def _metrics_log(experiment: Experiment, workdir: Path, start: int) -> MetricsLog | NoMetrics:
    if not is_first():
        return NoMetrics()
    project = experiment.training.wandb
    board = WandbBoard(workdir, project, dataclasses.asdict(experiment)) if project else None
    return MetricsLog(workdir, start, board)


def _utilisation(experiment: Experiment) -> Utilisation:
    known = experiment.compute.peak_tflops * 1e12 or peak_flops(jax.devices()[0].device_kind)
    return Utilisation(build_model(experiment), known)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
