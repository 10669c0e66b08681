"""The device feed: order kept, work done ahead, errors handed on, threads gone."""

from __future__ import annotations

import threading
import time

import jax
import numpy as np
import pytest

from make_jax.config import MeshConfig
from make_jax.training.feed import DeviceFeed
from make_jax.training.mesh import make_mesh


class Counting:
    """Batches that hold their number; fails at `broken`."""

    set_aside, reading = 3, "numbers"

    def __init__(self, broken: int = -1) -> None:
        self.given, self.broken, self.closed = 0, broken, False

    def __next__(self) -> dict[str, np.ndarray]:
        if self.given == self.broken:
            raise ValueError(f"batch {self.broken} is broken")
        self.given += 1
        return {"number": np.full(8, self.given - 1)}

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def mesh():
    return make_mesh(MeshConfig(8, 1, 1))


def _numbers(feed: DeviceFeed, count: int) -> list[int]:
    return [int(next(feed)["number"][0]) for _ in range(count)]


def test_batches_come_in_order_split_over_the_mesh(mesh) -> None:
    with DeviceFeed(Counting(), mesh) as feed:
        assert _numbers(feed, 20) == list(range(20))
        batch = next(feed)["number"]
        assert len(batch.sharding.device_set) == 8
        assert isinstance(batch, jax.Array)


def test_nothing_is_read_before_the_first_batch_is_asked_for_and_little_ahead_of_it(mesh) -> None:
    source = Counting()
    with DeviceFeed(source, mesh, depth=2) as feed:
        assert source.given == 0
        next(feed)
        deadline = time.monotonic() + 10
        while source.given < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.1)
        assert source.given == 4  # the one handed over, two ready, one waiting for room


def test_an_error_comes_with_the_batch_it_belongs_to_and_stays(mesh) -> None:
    with DeviceFeed(Counting(broken=3), mesh) as feed:
        assert _numbers(feed, 3) == [0, 1, 2]
        for _ in range(2):
            with pytest.raises(ValueError, match="batch 3 is broken"):
                next(feed)


def test_closing_ends_the_thread_and_closes_the_source(mesh) -> None:
    source = Counting()
    feed = DeviceFeed(source, mesh)
    next(feed)
    feed.close()
    assert source.closed
    assert not [thread for thread in threading.enumerate() if thread.name == "device-feed"]
    assert feed.set_aside == 3
