"""Which run comes next, on how many workers, and what to say meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from statistics import fmean
from typing import Protocol

from make_jax.run import read_metrics
from make_jax.sweeps.budget import windows
from make_jax.sweeps.execute import Executor, Outcome
from make_jax.sweeps.folders import RunFolder, read_json
from make_jax.sweeps.plan import PlannedRun

log = logging.getLogger(__name__)

_POLL_SECONDS, _SAY_SECONDS = 0.2, 60.0


class Source(Protocol):
    """Where runs come from; called by one worker at a time."""

    def take(self) -> PlannedRun | None:
        """The next run, None if there are no more for now."""

    def ended(self, run: PlannedRun, outcome: Outcome) -> None:
        """Tell how a run that was taken has ended."""

    def left(self) -> int:
        """How many are still to be taken."""


class ListSource:
    """Runs that are known from the start."""

    def __init__(self, runs: Sequence[PlannedRun]) -> None:
        self._runs = list(runs)

    def take(self) -> PlannedRun | None:
        return self._runs.pop(0) if self._runs else None

    def ended(self, run: PlannedRun, outcome: Outcome) -> None:
        """Nothing hangs on it."""

    def left(self) -> int:
        return len(self._runs)


@dataclass
class Schedule:
    """Takes runs from sources, one source after the other, and hands them to executors that work side by side.

    Attributes:
      outcomes: of every run that has ended, by name.
    """

    executors: Sequence[Executor]
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    _running: dict[str, tuple[PlannedRun, float]] = field(default_factory=dict)
    _taken: int = 0

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._stop = self.executors[0].stop
        self._said = time.monotonic()

    def work(self, source: Source) -> None:
        """Make all runs of a source; returns when all have ended, or when told to stop and all have stopped."""
        with ThreadPoolExecutor(len(self.executors)) as pool:
            workers = [pool.submit(self._serve, executor, source) for executor in self.executors]
            try:
                while wait(workers, _POLL_SECONDS).not_done:
                    self._raise_first(workers)
                    if time.monotonic() - self._said > _SAY_SECONDS:
                        self._say(source, "")
            except BaseException:
                self._stop.asked.set()  # the pool waits for its workers
                raise
        self._raise_first(workers)

    def _raise_first(self, workers: Sequence[Future[None]]) -> None:
        for worker in workers:
            if worker.done():
                worker.result()

    def _serve(self, executor: Executor, source: Source) -> None:
        while not self._stop.asked.is_set():
            with self._lock:
                run = source.take()
                if run is None:
                    return
                self._taken += 1
                self._running[run.name] = (run, time.monotonic())
                self._say(source, f"{run.name} begins; ")
            outcome = executor.execute(run)
            with self._lock:
                del self._running[run.name]
                self.outcomes[run.name] = outcome
                source.ended(run, outcome)
                told = f" ({outcome.reason})" if outcome.reason else ""
                log.log(
                    logging.WARNING if outcome.state in ("failed", "busy") else logging.INFO,
                    "%s: %s after %s%s",
                    run.name,
                    outcome.state,
                    duration(outcome.seconds),
                    told,
                )

    def _say(self, source: Source, first: str) -> None:
        self._said = time.monotonic()
        left, running = source.left(), list(self._running.values())
        total = self._taken + left
        steps = ", ".join(text for run, _ in running if (text := self._progress(run)))
        seconds = self._seconds_left(left)
        log.info(
            "[%d of %d] %s%d running%s, %d left%s",
            self._taken,
            total,
            first,
            len(running),
            f" ({steps})" if steps else "",
            left,
            f", about {duration(seconds)} to go" if seconds else "",
        )

    def _folder(self, run: PlannedRun) -> RunFolder:
        return RunFolder(self.executors[0].job.workdir, run)

    def _steps(self, run: PlannedRun) -> tuple[int, int]:
        """(step, steps) of a run, (0, steps) before its first log line."""
        found = windows(read_metrics(self._folder(run).run / "metrics.jsonl"))
        budget = read_json(self._folder(run).variant / "steps.json")
        return sum(steps for steps, _ in found), budget.get("steps", run.variant.experiment.training.steps)

    def _progress(self, run: PlannedRun) -> str:
        step, steps = self._steps(run)
        return f"{run.name} at step {step:,} of {steps:,}" if step else ""

    def _seconds_left(self, left: int) -> float | None:
        """By the runs that are done, else by the budget, else by how far the first ones are; None if unknown."""
        now = time.monotonic()
        done = [outcome.seconds for outcome in self.outcomes.values() if outcome.state == "done" and outcome.seconds]
        minutes = self.executors[0].job.minutes
        if done:
            each = fmean(done)
        elif minutes:
            each = 60 * minutes
        else:
            guesses = [
                (now - began) * steps / step
                for run, began in self._running.values()
                for step, steps in [self._steps(run)]
                if step
            ]
            if not guesses:
                return None
            each = fmean(guesses)
        open_ends = sum(max(each - (now - began), 0.0) for _, began in self._running.values())
        return (open_ends + each * left) / len(self.executors)


def duration(seconds: float) -> str:
    """As "2 h 5 min", "5 min 3 s" or "3 s"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"
