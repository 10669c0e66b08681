"""Batches on the devices before they are asked for: transfers run while the devices compute."""

from __future__ import annotations

import queue
import threading
from typing import Protocol, Self

import jax
import numpy as np
from jax.sharding import Mesh

from make_jax.training.mesh import place_batch

_PATIENCE = 5.0  # seconds for the thread to finish a batch; one whose reader hangs is left behind


class Feed(Protocol):
    """Batches, one a step, that hold threads and files until they are closed.

    Attributes:
      set_aside: how many damaged records have been left out so far.
      reading: what is being read, for messages; "" where that is not known.
    """

    @property
    def set_aside(self) -> int: ...

    @property
    def reading(self) -> str: ...

    def __next__(self) -> dict[str, np.ndarray]: ...

    def close(self) -> None: ...


class DeviceFeed:
    """The batches of a feed as global arrays split over the mesh, up to `depth` of them placed ahead of time.

    A thread reads and places them; what it raises is raised by the `next` that would have given that batch.
    """

    def __init__(self, feed: Feed, mesh: Mesh, depth: int = 2) -> None:
        self._feed, self._mesh = feed, mesh
        self._ready: queue.Queue[dict[str, jax.Array] | BaseException] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self._placing = False

    @property
    def set_aside(self) -> int:
        """How many damaged records have been left out so far."""
        return self._feed.set_aside

    @property
    def doing(self) -> str:
        """What the thread is at, for messages."""
        if self._placing:
            return "placing a batch on the devices"
        return f"reading {self._feed.reading or 'the next batch'}"

    def __next__(self) -> dict[str, jax.Array]:
        """The next batch; after an error or the end, the same again. The first call starts the reading."""
        if self._thread is None:
            # A daemon: a reader that hangs for ever must not keep the process alive.
            self._thread = threading.Thread(target=self._fill, name="device-feed", daemon=True)
            self._thread.start()
        item = self._ready.get()
        if isinstance(item, BaseException):
            self._ready.put(item)
            raise item
        return item

    def close(self) -> None:
        """Stop reading ahead and close the feed."""
        self._closed.set()
        while not self._ready.empty():  # makes room for a thread that waits to hand over
            self._ready.get_nowait()
        self._feed.close()
        if self._thread is not None:
            self._thread.join(timeout=_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _fill(self) -> None:
        while not self._closed.is_set():
            item: dict[str, jax.Array] | BaseException
            try:
                batch = next(self._feed)
                self._placing = True
                item = place_batch(batch, self._mesh)
            except BaseException as error:  # handed to the training loop, which decides
                item = error
            self._placing = False
            self._hand_over(item)
            if isinstance(item, BaseException):
                return

    def _hand_over(self, item: dict[str, jax.Array] | BaseException) -> None:
        while not self._closed.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue
