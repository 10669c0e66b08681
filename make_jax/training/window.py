"""What a log line sums up: the steps since the one before it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import jax
from tqdm import tqdm

from make_jax.config import TrainingConfig
from make_jax.training.compilations import Compilations
from make_jax.training.health import SparingRanks, memory
from make_jax.training.hosts import is_first
from make_jax.training.metrics_log import MetricsLog, NoMetrics
from make_jax.training.policy import check
from make_jax.training.utilisation import Utilisation
from make_jax.training.watchdog import Watchdog


class Window:
    """The steps since the last log line. Their metrics stay on the device until the line is due, so that logging
    every step's loss does not make the host wait for each."""

    def __init__(
        self,
        metrics_log: MetricsLog | NoMetrics,
        config: TrainingConfig,
        schedule: Callable[[int], Any],
        start: int,
        watchdog: Watchdog,
        utilisation: Utilisation,
    ) -> None:
        self._log, self._config, self._schedule, self._watchdog = metrics_log, config, schedule, watchdog
        self._utilisation = utilisation
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

    def add(self, step: int, batch: Mapping[str, jax.Array], metrics: dict[str, jax.Array]) -> None:
        self._utilisation.add(batch)
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
            **self._utilisation.take(seconds),
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
