"""Reads ahead in a thread that can be stopped, waited for only so long, and left behind when it hangs."""

from __future__ import annotations

import atexit
import queue
import threading
import weakref
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

_PATIENCE = 2.0  # seconds for a thread to finish what it is at when Python ends

T = TypeVar("T")


class _Raised(NamedTuple):
    """What reading raised instead of giving an item, StopIteration at the end."""

    error: Exception


class ReadAhead(threading.Thread, Generic[T]):
    """Takes items from an iterable, up to `depth` before they are asked for."""

    def __init__(self, items: Iterable[T], depth: int) -> None:
        """Starts nothing yet; the first `take` does."""
        super().__init__(name="read-ahead", daemon=True)  # one that hangs must not keep the process alive
        self._items = items
        self._turns = threading.Semaphore(depth)
        self._read: queue.SimpleQueue[T | _Raised] = queue.SimpleQueue()
        self._stopped = threading.Event()

    def take(self, patience: float) -> T:
        """Returns the next item.

        Raises:
          StopIteration: there is none, or the reading was stopped.
          queue.Empty: it did not come within `patience` seconds.
          Exception: what reading it raised.
        """
        if self._stopped.is_set():
            raise StopIteration
        if self.ident is None:
            _THREADS.add(self)
            self.start()
        item = self._read.get(timeout=patience)
        self._turns.release()
        if isinstance(item, _Raised):
            self.stop()  # nothing comes after it
            raise item.error
        return item

    def stop(self) -> None:
        """Ends the reading after the item it is at, and whoever waits for one."""
        self._stopped.set()
        self._turns.release()
        self._read.put(_Raised(StopIteration()))

    def run(self) -> None:
        """Reads; this is the thread."""
        items = iter(self._items)
        try:
            while self._turns.acquire() and not self._stopped.is_set():
                self._read.put(next(items))
        except Exception as error:
            self._read.put(_Raised(error))


_THREADS: weakref.WeakSet[ReadAhead] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Lets threads end while they can: one that comes back from C++ when Python is gone takes the process down."""
    alive = [thread for thread in _THREADS if thread.is_alive()]
    for thread in alive:
        thread.stop()
    for thread in alive:
        thread.join(_PATIENCE)
