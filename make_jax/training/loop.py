"""The training loop, top to bottom: mesh → model → state → steps, with logs, evaluation and checkpoints between."""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from make_jax.config import Experiment, TrainingConfig
from make_jax.model import build_model
from make_jax.run import read_metrics
from make_jax.training.checkpoints import Checkpoints
from make_jax.training.compilations import Compilations
from make_jax.training.feed import DeviceFeed, Feed
from make_jax.training.health import SparingRanks, memory
from make_jax.training.hosts import is_first, on_first
from make_jax.training.keeping import Judged, dev_metrics, dev_record, why_kept
from make_jax.training.mesh import gathered, make_mesh, replaced
from make_jax.training.metrics_log import MetricsLog, NoMetrics
from make_jax.training.optimizer import hold as hold_frozen
from make_jax.training.optimizer import make_optimizer, make_schedule
from make_jax.training.policy import check
from make_jax.training.signals import stop_on_signal
from make_jax.training.step import Trainer, TrainState, make_trainer
from make_jax.training.wandb_board import WandbBoard
from make_jax.training.watchdog import Watchdog

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
            _Window(metrics_log, config, schedule, start, watchdog) as window,
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
                with window.waiting(), watchdog.waiting("input", step + 1, detail=lambda: feed.doing):
                    batch = stop.unless_stopped(lambda: next(feed))
                if batch is None:
                    break
                # What is not on the devices by now has been forgotten, and would be sent again in every step.
                with watchdog.waiting("launch", step + 1), jax.transfer_guard("disallow"):
                    state, metrics = trainer.step(state, batch)
                step += 1
                window.add(step, metrics)
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


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Window:
    """The steps since the last log line. Their metrics stay on the device until the line is due, so that logging
    every step's loss does not make the host wait for each."""

    def __init__(
        self,
        metrics_log: MetricsLog | NoMetrics,
        config: TrainingConfig,
        schedule: Callable[[int], Any],
        start: int,
        watchdog: Watchdog,
    ) -> None:
        self._log, self._config, self._schedule, self._watchdog = metrics_log, config, schedule, watchdog
        self._bar = tqdm(
            total=config.steps,
            initial=start,
            unit="step",
            desc="train",
            mininterval=1.0,
            dynamic_ncols=True,
            disable=not is_first(),
        )
        self._pending: list[tuple[int, Any]] = []
        self._moments: jax.Array | None = None  # of the last step's vectors
        self._ranks = SparingRanks()
        self._compilations = Compilations()
        self.restart()

    def restart(self) -> None:
        """Begin a new window now."""
        self._began, self._wait = time.perf_counter(), 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside counts as waiting for input."""
        began = time.perf_counter()
        yield
        self._wait += time.perf_counter() - began

    def add(self, step: int, metrics: dict[str, jax.Array]) -> None:
        self._moments = metrics.pop("moments", None)
        self._pending.append((step, metrics))

    def close(self, set_aside: int) -> None:
        """Fetch the window's metrics, refuse what must not go on, and write one record a step."""
        if not self._pending:
            return
        steps, values = zip(*self._pending, strict=True)
        with self._watchdog.waiting("devices", steps[-1], len(steps)):
            values, moments = jax.device_get((values, self._moments))
        fetched = [{name: float(value) for name, value in record.items()} for record in values]
        for step, record in zip(steps, fetched, strict=True):
            check(self._config, step, record)
        seconds = max(time.perf_counter() - self._began, 1e-9)
        updates = steps[-1] - int(fetched[-1].get("steps_skipped", 0))
        last = {
            "seconds": seconds,
            "examples_per_second": len(steps) * self._config.batch_size / seconds,
            "input_wait": min(self._wait / seconds, 1.0),
            "learning_rate": float(self._schedule(max(updates - 1, 0))),
            "records_set_aside": set_aside,
            "compilations": self._compilations.take(),
            **({} if moments is None else self._ranks(moments)),
            **memory(),
        }
        for step, record in zip(steps, fetched, strict=True):
            whole = record | (last if step == steps[-1] else {})
            # A step that was skipped has numbers that JSON does not know.
            self._log.write(step, {name: value for name, value in whole.items() if math.isfinite(value)})
        self._bar.set_postfix(
            loss=f"{fetched[-1]['loss']:.3f}",
            ex_s=f"{last['examples_per_second']:.0f}",
            input_wait=f"{last['input_wait']:.0%}",
            refresh=False,
        )
        self._bar.update(len(steps))
        self._pending = []
        self.restart()

    def __enter__(self) -> Self:
        self._compilations.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        """End the bar's line, so that an error starts on one of its own."""
        self._bar.close()
        self._compilations.__exit__()
