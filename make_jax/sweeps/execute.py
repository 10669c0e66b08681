"""One run from its first step to its metrics, each part in a process of its own."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from make_jax.errors import UserError
from make_jax.sweeps.budget import PROBE_LOG_EVERY, PROBE_SETTINGS, VariantBudget, probe_is_enough
from make_jax.sweeps.folders import RunFolder, write_experiment, write_variant
from make_jax.sweeps.plan import PlannedRun
from make_jax.sweeps.processes import Stop, run_logged, why_it_failed

MAKE_JAX = (sys.executable, "-m", "make_jax")

State = Literal["done", "failed", "stopped", "busy"]


@dataclass(frozen=True)
class Judgements:
    """What runs are evaluated on: the catalogue, and again `without` images or titles, if asked.

    `options` go to make-jax evaluate as they are.
    """

    products: tuple[str, ...]
    queries: str
    qrels: str
    without: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """Of make-jax evaluate, but for the run and the places."""
        products = [part for glob in self.products for part in ("--products", glob)]
        return [*products, "--queries", self.queries, "--qrels", self.qrels, *self.options]


@dataclass(frozen=True)
class Job:
    """What all runs of a sweep have in common; `program` is what stands before "train"."""

    workdir: Path
    data: tuple[str, ...]
    minutes: float | None = None
    judgements: Judgements | None = None
    program: tuple[str, ...] = MAKE_JAX


class Outcome(NamedTuple):
    """How an attempt ended, why, and how long it took."""

    state: State
    reason: str = ""
    seconds: float = 0.0


class _Ended(Exception):
    """A part of a run did not come to its end."""

    def __init__(self, state: State, reason: str) -> None:
        super().__init__(reason)
        self.state: State = state


def is_done(folder: RunFolder, job: Job) -> bool:
    """Whether nothing is left to do for a run."""
    return folder.is_trained and (job.judgements is None or not _unjudged(folder, job.judgements))


def _unjudged(folder: RunFolder, judgements: Judgements) -> list[str]:
    """The conditions that are not evaluated yet, "" being the whole catalogue."""
    conditions = ("", *judgements.without)
    return [condition for condition in conditions if not folder.is_judged(condition, judgements.arguments())]


def train_command(folder: RunFolder, data: Sequence[str]) -> list[str]:
    """What follows "make-jax"."""
    chosen = [part for choice in data for part in ("--data", choice)]
    return ["train", str(folder.experiment), *chosen, "--workdir", str(folder.run)]


def judge_commands(folder: RunFolder, judgements: Judgements, condition: str) -> list[list[str]]:
    """What follows "make-jax", one after the other."""
    run, vectors, report = str(folder.run), str(folder.vectors), str(folder.report(condition))
    products = [part for glob in judgements.products for part in ("--products", glob)]
    without = ["--without", condition] if condition else []
    return [
        ["embed", "--run", run, *products, *without, "--out", vectors],
        ["evaluate", "--run", run, "--embeddings", vectors, *judgements.arguments(), "--out", report],
    ]


def shown(command: Sequence[str]) -> str:
    """A command as a user would type it."""
    return shlex.join(["make-jax", *command])


@dataclass
class Executor:
    """Makes runs; one for each job that runs at a time, so that each may have devices of its own."""

    job: Job
    stop: Stop
    environment: Mapping[str, str] = field(default_factory=dict)

    def execute(self, run: PlannedRun) -> Outcome:
        """Make a run, or what is left of it, and record how that ended."""
        folder, began = RunFolder(self.job.workdir, run), time.monotonic()
        with folder.locked() as lock:
            if lock is None:
                return Outcome("busy", "another process is at it")
            if is_done(folder, self.job):
                return Outcome("done")
            try:
                self._parts(run, folder, lock)
                outcome = Outcome("done")
            except _Ended as ended:
                outcome = Outcome(ended.state, str(ended))
            except (UserError, OSError) as error:
                outcome = Outcome("failed", str(error))
            outcome = outcome._replace(seconds=time.monotonic() - began)
            folder.write_status(state=outcome.state, reason=outcome.reason, seconds=round(outcome.seconds, 1))
            return outcome

    def _parts(self, run: PlannedRun, folder: RunFolder, lock: int) -> None:
        write_variant(self.job.workdir, run.variant)
        if not folder.is_trained:
            steps = self._budgeted_steps(run, folder, lock) if self.job.minutes else None
            write_experiment(folder, run, steps)
            self._call(folder, lock, train_command(folder, self.job.data))
            if not folder.is_trained:
                raise _Ended("stopped", "told to stop, and saved")
        judgements = self.job.judgements
        for condition in _unjudged(folder, judgements) if judgements else ():
            assert judgements is not None
            for command in judge_commands(folder, judgements, condition):
                self._call(folder, lock, command)
            folder.vectors.unlink(missing_ok=True)  # large, and quickly made again
            folder.record_judged(condition, judgements.arguments())

    def _budgeted_steps(self, run: PlannedRun, folder: RunFolder, lock: int) -> int:
        minutes = self.job.minutes
        assert minutes is not None
        with VariantBudget(folder.variant, minutes, self.stop) as budget:
            recorded = budget.steps()
            if recorded is not None:
                return recorded
            write_experiment(folder, run, None)
            metrics = budget.probe / "run" / "metrics.jsonl"
            log_every = min(run.variant.experiment.training.log_every, PROBE_LOG_EVERY)
            settings = [f"training.log_every={log_every}", *PROBE_SETTINGS]
            command = ["train", str(folder.experiment), *(p for choice in self.job.data for p in ("--data", choice))]
            command += ["--workdir", str(budget.probe / "run"), *(p for s in settings for p in ("--set", s))]
            self._call(folder, lock, command, enough=lambda: probe_is_enough(metrics, minutes))
            self._go_on()  # a probe cut short has not measured enough
            return budget.record()

    def _call(
        self, folder: RunFolder, lock: int, command: Sequence[str], enough: Callable[[], bool] = lambda: False
    ) -> None:
        """One process; raises _Ended where it fails or was told to stop."""
        self._go_on()
        start = folder.log.stat().st_size if folder.log.exists() else 0
        whole = [*self.job.program, *command]
        code = run_logged(whole, folder.log, self.stop, environment=self.environment, lock=lock, enough=enough)
        if code != 0:
            self._go_on()
            raise _Ended("failed", why_it_failed(code, folder.log, start))

    def _go_on(self) -> None:
        if self.stop.asked.is_set():
            raise _Ended("stopped", "told to stop")
