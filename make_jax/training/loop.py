"""The training loop, top to bottom: mesh → model → state → steps, with logs, evaluation and checkpoints between."""

from __future__ import annotations

import dataclasses
import logging
import math
import signal
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
from make_jax.training.checkpoints import Checkpoints
from make_jax.training.feed import DeviceFeed, Feed
from make_jax.training.health import SparingRanks, memory
from make_jax.training.hosts import asked_to_stop, is_first
from make_jax.training.mesh import gathered, make_mesh, replaced
from make_jax.training.metrics_log import MetricsLog, NoMetrics
from make_jax.training.optimizer import hold as hold_frozen
from make_jax.training.optimizer import make_optimizer, make_schedule
from make_jax.training.policy import check
from make_jax.training.step import Trainer, make_trainer
from make_jax.training.wandb_board import WandbBoard
from make_jax.training.watchdog import Watchdog

log = logging.getLogger(__name__)


Batches = Callable[[int], Feed]
Evaluate = Callable[[Any], dict[str, float]]


class Outcome(NamedTuple):
    """How training ended: the parameters, the steps done, and whether those are all that were asked for."""

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

    Args:
      experiment: complete, so with the vocabulary size set.
      workdir: where checkpoints, `metrics.jsonl` and TensorBoard files go.
      batches: from a first step, the batches of that step and all that follow (this process' rows).
      evaluate: parameters → dev metrics.
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

    with closing(Checkpoints(workdir / "checkpoints", config.keep_checkpoints)) as checkpoints:
        # ---- resume -------------------------------------------------------------------------------------------------
        start = checkpoints.latest() or 0
        if start:
            state = checkpoints.restore(start, trainer.shapes, trainer.shardings)
            log.info("resuming at step %d of %d", start, config.steps)
        else:
            state = trainer.init()
            state = state._replace(params=replaced(state.params, initial()))

        # ---- steps --------------------------------------------------------------------------------------------------
        with (
            _metrics_log(experiment, workdir, start) as metrics_log,
            _stop_on_signal() as stopped,
            DeviceFeed(batches(start), mesh) as feed,
            Watchdog(config) as watchdog,
            _Window(metrics_log, config, schedule, start, watchdog) as window,
        ):
            step = start
            while step < config.steps and not stopped(step):
                with window.waiting(), watchdog.waiting("input", step + 1, detail=lambda: feed.doing):
                    batch = next(feed)
                # What is not on the devices by now has been forgotten, and would be sent again in every step.
                with watchdog.waiting("launch", step + 1), jax.transfer_guard("disallow"):
                    state, metrics = trainer.step(state, batch)
                step += 1
                window.add(step, metrics)
                checkpoint = _due(step, config.checkpoint_every)
                if checkpoint or _due(step, config.log_every):
                    window.close(feed.set_aside)
                if _due(step, config.eval_every) or step == config.steps:
                    window.close(feed.set_aside)
                    with watchdog.waiting("evaluation", step):
                        dev = evaluate(state.params)
                    if dev:
                        metrics_log.write(step, {f"dev/{name}": value for name, value in dev.items()})
                    window.restart()
                if checkpoint:
                    metrics_log.flush()
                    with watchdog.waiting("checkpoint", step):
                        checkpoints.save(step, state)
            # The end, or a signal: what is not saved yet is saved now, its numbers first.
            window.close(feed.set_aside)
            metrics_log.flush()
            with watchdog.waiting("checkpoint", step):
                checkpoints.save(step, state)
    return Outcome(state.params, step, step == config.steps)


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
        return self

    def __exit__(self, *_: object) -> None:
        """End the bar's line, so that an error starts on one of its own."""
        self._bar.close()


@contextmanager
def _stop_on_signal() -> Iterator[Callable[[int], bool]]:
    """Turn Ctrl-C and SIGTERM into a flag that the loop reads after each step; a second Ctrl-C interrupts at once.

    Several processes agree on the step at which they stop, after SIGTERM to any of them; Ctrl-C interrupts at once.
    """
    if jax.process_count() > 1:
        yield asked_to_stop
        return
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        log.warning("%s: finishing this step, saving, then stopping", signal.Signals(number).name)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda _: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
