"""Equal time instead of equal steps: how many steps fit into a budget.

A learning-rate schedule needs the number of steps before it begins, so time cannot simply run out. A short probe trains
the variant until it has measured its speed past compilation; then the number of steps is fixed, recorded, and the same
for all seeds and every resumption.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from make_jax.errors import UserError
from make_jax.run import provenance, read_metrics
from make_jax.sweeps.folders import read_json, write_json
from make_jax.sweeps.processes import Stop

log = logging.getLogger(__name__)

PROBE_SHARE, PROBE_SECONDS = 0.1, 30.0  # a tenth of the budget, at most half a minute
PROBE_WINDOWS = 2  # after the one in which compilation takes place
PROBE_LOG_EVERY = 5  # no more steps a window than this, or a slow model's probe would take longer than its run
_ENDLESS = 1_000_000_000

PROBE_SETTINGS = (
    f"training.steps={_ENDLESS}",
    *(f"training.{key}=0" for key in ("eval_every", "checkpoint_every", "keep_every", "keep_best")),
)


def windows(records: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """(steps, seconds) of every window between two log lines of a metrics.jsonl, the first with the compilation."""
    found, last = [], 0
    for record in records:
        if "seconds" in record:
            found.append((record["step"] - last, record["seconds"]))
            last = record["step"]
    return found


def pace(found: Sequence[tuple[int, float]]) -> float | None:
    """Seconds a step: the median of the windows past the first, None if there is none."""
    paces = [seconds / steps for steps, seconds in found[1:] if steps > 0]
    return median(paces) if paces else None


def steps_within(minutes: float, seconds_per_step: float) -> int:
    """How many whole steps fit; at least one."""
    return max(1, int(60 * minutes / seconds_per_step))


def probe_is_enough(metrics: Path, minutes: float) -> bool:
    """Whether a probe has measured long enough past its first window."""
    found = windows(read_metrics(metrics))[1:]
    needed = min(PROBE_SHARE * 60 * minutes, PROBE_SECONDS)
    return len(found) >= PROBE_WINDOWS and sum(seconds for _, seconds in found) >= needed


class VariantBudget:
    """The steps of a variant, measured once by whoever comes first; a context manager that holds its lock."""

    def __init__(self, folder: Path, minutes: float, stop: Stop) -> None:
        self._folder, self._minutes, self._stop = folder, minutes, stop

    def __enter__(self) -> VariantBudget:
        """Wait for another probe of the same variant to end, or for a request to stop."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = (self._folder / "lock").open("w")
        while not self._stop.asked.is_set():
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.2)
            else:
                for left in self._folder.glob("probe-*"):  # by a process that was killed
                    shutil.rmtree(left, ignore_errors=True)
                break
        self.probe = Path(tempfile.mkdtemp(prefix="probe-", dir=self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.probe, ignore_errors=True)
        self._lock.close()

    def steps(self) -> int | None:
        """What was recorded for this many minutes, None if nothing was; warns if it was measured elsewhere."""
        record = read_json(self._folder / "steps.json")
        if record.get("minutes") != self._minutes:
            return None
        here = provenance()["hardware"]
        if record["hardware"] != here:
            log.warning(
                "%s: the %d steps for %g minutes were measured on %s, this is %s",
                self._folder.name,
                record["steps"],
                self._minutes,
                record["hardware"],
                here,
            )
        return int(record["steps"])

    def record(self) -> int:
        """Turn what the probe has measured into steps, and write them down.

        Raises:
          UserError: it did not get far enough.
        """
        found = windows(read_metrics(self.probe / "run" / "metrics.jsonl"))
        seconds = pace(found)
        if seconds is None:
            raise UserError("the probe ended before its speed could be measured")
        steps = steps_within(self._minutes, seconds)
        write_json(
            self._folder / "steps.json",
            {
                "minutes": self._minutes,
                "steps": steps,
                "seconds_per_step": seconds,
                "probe_steps": sum(number for number, _ in found),
                "hardware": provenance()["hardware"],
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )
        return steps
