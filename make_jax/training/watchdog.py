"""A thread that says what the training loop waits for when it waits for long, and may end the process then."""

from __future__ import annotations

import logging
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Self

from make_jax.config import TrainingConfig
from make_jax.training.hosts import HOSTS, Hosts

log = logging.getLogger(__name__)

Place = Literal["input", "launch", "devices", "evaluation", "checkpoint"]

_WHAT: dict[str, str] = {
    "input": "input",
    "launch": "the step to be launched (one with new lengths is compiled first)",
    "devices": "the devices, which have not done what was launched",
    "evaluation": "the evaluation",
    "checkpoint": "a checkpoint to be written",
}
_LATE = 64  # waits whose median is the usual one
_FIRST = 10  # times as long may the first wait at a place take, which compiles
_NAMED = 8  # processes, in one line
_PATIENCE = 5.0  # seconds for the thread to end; one that asks a coordinator that is gone is left behind


@dataclass
class _Wait:
    place: Place
    step: int
    steps: int
    detail: Callable[[], str]
    began: float
    due: float | None = None  # seconds after which it is told, again


class Watchdog:
    """Looks at what `waiting` is told, in a thread; a context manager.

    A wait is told when it takes `slow_factor` times the median of late ones at that place, and at least `slow_seconds`;
    again after twice, four times, ... as long. Ten times `slow_seconds` are granted where there is nothing to compare
    with. Processes tell each other what they wait for, and the line names those that wait for something else.
    """

    def __init__(self, config: TrainingConfig, hosts: Hosts = HOSTS, end: Callable[[str], None] | None = None) -> None:
        self._config, self._hosts, self._end = config, hosts, end or _end
        self._late: dict[str, deque[float]] = {place: deque(maxlen=_LATE) for place in _WHAT}
        self._wait: _Wait | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @contextmanager
    def waiting(self, place: Place, step: int, steps: int = 1, detail: Callable[[], str] = str) -> Iterator[None]:
        """The loop is inside at `place` to have `step` done, and those before it: `steps` in all.

        detail: what more is known of it; called from the thread.
        """
        self._wait = wait = _Wait(place, step, steps, detail, time.monotonic())
        try:
            yield
            self._late[place].append((time.monotonic() - wait.began) / steps)
        finally:
            self._wait = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._thread.join(_PATIENCE)

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._config.slow_seconds / 8)):
            if (wait := self._wait) is not None:
                self._look(wait, time.monotonic() - wait.began)

    def _look(self, wait: _Wait, seconds: float) -> None:
        slow, hang = self._config.slow_seconds, self._config.hang_seconds
        usual = self._usual(wait)
        if wait.due is None:
            wait.due = _FIRST * slow if usual is None else max(slow, self._config.slow_factor * usual)
        if seconds > slow / 2:
            self._hosts.tell({"place": wait.place, "step": wait.step, "detail": wait.detail()})
        if seconds > wait.due:
            wait.due = 2 * seconds
            log.warning("%s", self._line(wait, seconds, usual))
        if hang and seconds > hang:
            self._end(f"{self._line(wait, seconds, usual)}; this is more than training.hang_seconds {hang:g}")

    def _usual(self, wait: _Wait) -> float | None:
        late = tuple(self._late[wait.place])
        return statistics.median(late) * wait.steps if late else None

    def _line(self, wait: _Wait, seconds: float, usual: float | None) -> str:
        detail = wait.detail()
        parts = [
            f"step {wait.step}: waiting for {_WHAT[wait.place]}, for {seconds:.3g} seconds",
            f" (usually {usual:.2g})" if usual is not None else "",
            f": {detail}" if detail else "",
        ]
        others = behind(wait.place, self._hosts.count, self._hosts.index, self._hosts.heard(self._config.slow_seconds))
        return "".join(parts) + (f"; {others}" if others else "")


def behind(place: str, count: int, index: int, heard: dict[int, dict[str, str]]) -> str:
    """Which of the other processes keep this one, that is at `place`, waiting; "" if it is alone.

    heard: what those that wait, too, have told lately.
    """
    others = [number for number in range(count) if number != index]
    if not others:
        return ""
    silent = [number for number in others if number not in heard]
    elsewhere = [number for number in others if number in heard and heard[number]["place"] != place]
    found = [f"process {number} waits for {_told(heard[number])}" for number in elsewhere[:_NAMED]]
    if silent:
        numbers = ", ".join(map(str, silent[:_NAMED])) + (" and more" if len(silent) > _NAMED else "")
        found.append(f"nothing is heard of process {numbers}: busy, hanging or gone")
    return "; ".join(found) or f"all {count} processes wait for the same"


def _told(message: dict[str, str]) -> str:
    detail = f" ({message['detail']})" if message["detail"] else ""
    return f"{_WHAT[message['place']]} of step {message['step']}{detail}"


def _end(line: str) -> None:
    """End the process at once: the loop hangs in a call that nothing interrupts."""
    sys.stderr.write(f"\nmake-jax: error: {line}; the same command goes on from the last checkpoint\n")
    sys.stderr.flush()
    os._exit(1)
