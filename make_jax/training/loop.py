"""The training loop, top to bottom: mesh → model → state → steps, with logs, evaluation and checkpoints between."""

from __future__ import annotations

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

from make_jax.config import Experiment
from make_jax.model import build_model
from make_jax.training.checkpoints import Checkpoints
from make_jax.training.feed import DeviceFeed, Feed
from make_jax.training.hosts import asked_to_stop, is_first
from make_jax.training.mesh import gathered, make_mesh, replaced
from make_jax.training.metrics_log import MetricsLog, NoMetrics
from make_jax.training.optimizer import hold as hold_frozen
from make_jax.training.optimizer import make_optimizer, make_schedule
from make_jax.training.step import Trainer, make_trainer

log = logging.getLogger(__name__)


Batches = Callable[[int], Feed]
Evaluate = Callable[[Any], dict[str, float]]


class NonFiniteLoss(Exception):
    """The loss is NaN or infinite; names the step. Nothing is saved from that step on."""


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
      NonFiniteLoss: the loss of a step is not finite.
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
            MetricsLog(workdir, start) if is_first() else NoMetrics() as metrics_log,
            _stop_on_signal() as stopped,
            DeviceFeed(batches(start), mesh) as feed,
            _Window(metrics_log, config.batch_size, schedule, start, config.steps) as window,
        ):
            step = start
            while step < config.steps and not stopped(step):
                with window.waiting():
                    batch = next(feed)
                state, metrics = trainer.step(state, batch)
                step += 1
                window.add(step, metrics)
                checkpoint = _due(step, config.checkpoint_every)
                if checkpoint or _due(step, config.log_every):
                    window.close(feed.set_aside)
                if _due(step, config.eval_every) or step == config.steps:
                    window.close(feed.set_aside)
                    if dev := evaluate(state.params):
                        metrics_log.write(step, {f"dev/{name}": value for name, value in dev.items()})
                    window.restart()
                if checkpoint:
                    metrics_log.flush()
                    checkpoints.save(step, state)
            # The end, or a signal: what is not saved yet is saved now, its numbers first.
            window.close(feed.set_aside)
            metrics_log.flush()
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
    )


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


class _Window:
    """The steps since the last log line. Their metrics stay on the device until the line is due, so that logging
    every step's loss does not make the host wait for each."""

    def __init__(
        self,
        metrics_log: MetricsLog | NoMetrics,
        batch_size: int,
        schedule: Callable[[int], Any],
        start: int,
        steps: int,
    ) -> None:
        self._log, self._batch_size, self._schedule = metrics_log, batch_size, schedule
        self._bar = tqdm(
            total=steps,
            initial=start,
            unit="step",
            desc="train",
            mininterval=1.0,
            dynamic_ncols=True,
            disable=not is_first(),
        )
        self._pending: list[tuple[int, Any]] = []
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

    def add(self, step: int, metrics: Any) -> None:
        self._pending.append((step, metrics))

    def close(self, set_aside: int) -> None:
        """Fetch the window's metrics, refuse a non-finite loss, and write one record a step."""
        if not self._pending:
            return
        steps, values = zip(*self._pending, strict=True)
        fetched = [{name: float(value) for name, value in record.items()} for record in jax.device_get(values)]
        for step, record in zip(steps, fetched, strict=True):
            # A gradient that is not finite ruins the parameters although the loss before it was fine.
            if not math.isfinite(record["loss"]) or not math.isfinite(record["gradient_norm"]):
                raise NonFiniteLoss(
                    f"the loss of step {step} is {record['loss']} and the norm of its gradient "
                    f"{record['gradient_norm']}; the last checkpoint is from before it. Lower "
                    "optimizer.learning_rate or objectives.scale_max and run the same command in a new --workdir"
                )
        seconds = max(time.perf_counter() - self._began, 1e-9)
        speed = {
            "seconds": seconds,
            "examples_per_second": len(steps) * self._batch_size / seconds,
            "input_wait": min(self._wait / seconds, 1.0),
            "learning_rate": float(self._schedule(steps[-1] - 1)),
            "records_set_aside": set_aside,
        }
        for step, record in zip(steps, fetched, strict=True):
            self._log.write(step, record | (speed if step == steps[-1] else {}))
        self._bar.set_postfix(
            loss=f"{fetched[-1]['loss']:.3f}",
            ex_s=f"{speed['examples_per_second']:.0f}",
            input_wait=f"{speed['input_wait']:.0%}",
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
