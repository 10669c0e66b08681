"""One of several processes that wait for something else each: PORT INDEX COUNT PLACE."""

from __future__ import annotations

import logging
import sys
import time

import jax

from make_jax.config import TrainingConfig
from make_jax.training.watchdog import Place, Watchdog


def main(port: str, index: int, count: int, place: Place) -> None:
    """Waits for three seconds at its place, after it has been there for none."""
    jax.distributed.initialize(f"127.0.0.1:{port}", count, index, initialization_timeout=120)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    with Watchdog(TrainingConfig(slow_seconds=1.0)) as watchdog:
        with watchdog.waiting(place, 8):
            pass
        with watchdog.waiting(place, 9, detail=lambda: f"by process {index}"):
            time.sleep(4)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])  # type: ignore[arg-type]
