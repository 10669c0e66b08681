"""A trace of a few steps, for TensorBoard's profiler."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import jax

log = logging.getLogger(__name__)

WARM, TRACED = 10, 5  # steps: compilation and the first waits are over, and a trace stays small


class Profile:
    """Traces TRACED steps after WARM ones, or the last ones of a short run, on every process; a context manager."""

    def __init__(self, folder: Path | None, start: int, end: int) -> None:
        """Of the steps after `start` up to `end`, into `folder`, that of a run's other numbers; None: no trace."""
        self._folder = folder
        self._last = min(start + WARM + TRACED, end)
        self._first = max(self._last - TRACED, start) + 1
        self._tracing = False

    @contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Around a step, from its input on."""
        if self._folder is not None and step == self._first:
            jax.profiler.start_trace(self._folder)
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def done(self, step: int, results: Any) -> None:
        """After a step, whose results are waited for if it is the last one in the trace."""
        if self._tracing and step == self._last:
            jax.block_until_ready(results)
            self._stop()
            log.info("a trace of the steps %d to %d is in %s", self._first, self._last, self._folder)

    def _stop(self) -> None:
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
