"""What the watchdog says, when, and that it ends a process whose loop hangs."""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from make_jax.config import TrainingConfig
from make_jax.training.hosts import Hosts
from make_jax.training.watchdog import Watchdog, behind


class Told(Hosts):
    """Two other processes, one of which says where it is."""

    count, index = 3, 0

    def __init__(self) -> None:
        self.said: list[Any] = []

    def tell(self, message: Any) -> None:
        self.said.append(message)

    def heard(self, seconds: float) -> dict[int, dict[str, Any]]:
        return {1: {"place": "input", "step": 7, "detail": "reading shard 3"}}


def until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def settings(**more: float) -> TrainingConfig:
    return TrainingConfig(slow_seconds=0.08, **more)


def test_a_long_wait_is_told_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    hosts = Told()
    with caplog.at_level(logging.WARNING, "make_jax"), Watchdog(settings(slow_factor=3), hosts) as watchdog:
        with watchdog.waiting("input", 6):
            pass  # from now on it is known how long it takes
        with watchdog.waiting("input", 7, detail=lambda: "reading shard 5"):
            until(lambda: len(caplog.messages) == 3)
    seconds = [float(line.split("for ")[2].split()[0]) for line in caplog.messages]
    assert seconds[0] > 0.08
    assert all(later >= 2 * sooner * 0.99 for sooner, later in pairwise(seconds))
    assert caplog.messages[0].startswith("step 7: waiting for input, for 0.")
    assert "(usually " in caplog.messages[0]
    assert "reading shard 5; nothing is heard of process 2: busy, hanging or gone" in caplog.messages[0]
    assert {"place": "input", "step": 7, "detail": "reading shard 5"} in hosts.said


def test_the_usual_is_no_news(caplog: pytest.LogCaptureFixture) -> None:
    """Ten steps wait ten times as long as one, and the first wait of a kind, which compiles, may take long."""
    with caplog.at_level(logging.WARNING, "make_jax"), Watchdog(settings(slow_factor=20), Told()) as watchdog:
        with watchdog.waiting("launch", 1):
            time.sleep(0.3)
        with watchdog.waiting("devices", 1, 1):
            time.sleep(0.02)
        with watchdog.waiting("devices", 11, 10):
            time.sleep(0.3)
        time.sleep(0.3)  # waiting for nothing
    assert caplog.messages == []


def test_a_wait_that_fails_is_over(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "make_jax"), Watchdog(settings(slow_factor=1), Told()) as watchdog:
        with watchdog.waiting("input", 1):
            pass
        with pytest.raises(StopIteration), watchdog.waiting("input", 2):
            raise StopIteration
        time.sleep(0.3)
    assert caplog.messages == []
    assert not [thread for thread in threading.enumerate() if thread.name == "watchdog"]


def test_a_hanging_loop_is_ended() -> None:
    ended: list[str] = []
    with Watchdog(settings(hang_seconds=0.1), Told(), ended.append) as watchdog, watchdog.waiting("devices", 12, 4):
        until(lambda: bool(ended))
    assert ended[0].startswith("step 12: waiting for the devices, which have not done what was launched, for 0.")
    assert "process 1 waits for input of step 7 (reading shard 3)" in ended[0]
    assert ended[0].endswith("this is more than training.hang_seconds 0.1")


def test_the_end_is_one_line_and_exit_code_1() -> None:
    code = (
        "import time\n"
        "from make_jax.config import TrainingConfig\n"
        "from make_jax.training.watchdog import Watchdog\n"
        "with Watchdog(TrainingConfig(slow_seconds=0.1, hang_seconds=0.1)) as watchdog:\n"
        "    with watchdog.waiting('checkpoint', 3): time.sleep(600)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("make-jax: error: step 3: waiting for a checkpoint to be written")
    assert line.endswith("the same command goes on from the last checkpoint")


INPUT = {"place": "input", "step": 9, "detail": ""}
DEVICES = {"place": "devices", "step": 9, "detail": ""}


@pytest.mark.parametrize(
    ("count", "heard", "expected"),
    [
        (1, {}, ""),
        (3, {1: DEVICES, 2: DEVICES}, "all 3 processes wait for the same"),
        (3, {1: DEVICES, 2: INPUT}, "process 2 waits for input of step 9"),
        (3, {2: INPUT}, "process 2 waits for input of step 9; nothing is heard of process 1: busy, hanging or gone"),
        (20, {}, "nothing is heard of process 1, 2, 3, 4, 5, 6, 7, 8 and more: busy, hanging or gone"),
    ],
)
def test_who_is_behind(count: int, heard: dict[int, dict[str, str]], expected: str) -> None:
    assert behind("devices", count, 0, heard) == expected
