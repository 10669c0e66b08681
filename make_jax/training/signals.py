"""Being told to stop: Ctrl-C and SIGTERM, which clusters send before they take a machine away."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import jax

from make_jax.training.hosts import asked_to_stop

log = logging.getLogger(__name__)

T = TypeVar("T")


class _Left(BaseException):
    """Raised by a signal out of what may be given up; nothing that catches Exception may hold it back."""


class StopRequest:
    """Whether the run was told to stop; made by `stop_on_signal`."""

    def __init__(self) -> None:
        self._received = self._may_leave = False

    def heard(self, step: int) -> bool:
        """Whether to stop after this step; to be asked after every one."""
        return self._received if jax.process_count() == 1 else asked_to_stop(step)

    def unless_stopped(self, action: Callable[[], T]) -> T | None:
        """What `action` returns, or None where a signal came first, which ends it wherever it is.

        For what takes long and changes nothing: waiting for input, evaluation. Of several processes none can leave
        alone, so there it always runs to its end.
        """
        try:
            self._may_leave = True
            return None if self._received else action()
        except _Left:
            return None
        finally:
            self._may_leave = False

    def note(self, number: int, _frame: object) -> None:
        """The handler of the signals."""
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = True
        log.warning("%s: saving, then stopping", signal.Signals(number).name)
        if self._may_leave:
            raise _Left


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn Ctrl-C and SIGTERM into a request that the loop heeds after each step; a second Ctrl-C interrupts at once.

    Several processes agree on the step at which they stop, after SIGTERM to any of them; Ctrl-C interrupts at once.
    """
    request = StopRequest()
    if jax.process_count() > 1:
        yield request
        return
    before = {number: signal.signal(number, request.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
