"""Does memory stay flat while an hour's worth of training batches is made from a large catalogue?"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from harness import Row

STATUS = Path("/proc/self/status")

_EVERY = 50  # steps
_SETTLING = 200  # steps, during which buffers fill; left out of the comparison
_PART = 0.2  # of the steps after that, the first and the last are compared
_MOST_GROWTH = 1.05
_MIB = 1024  # KiB


@dataclass(frozen=True)
class MemoryUse:
    """What a process held while it made batches.

    Attributes:
      steps: int64[n], how many batches were made when memory was measured.
      anonymous: float64[n], MiB of its own.
      files: float64[n], MiB of files that are mapped into it: libraries and data, which the system may drop.
    """

    steps: np.ndarray
    anonymous: np.ndarray
    files: np.ndarray

    def settled(self) -> np.ndarray:
        """int64[m]: the measurements after the buffers were filled."""
        return np.flatnonzero(self.steps > min(_SETTLING, self.steps[-1] // 4))

    def describe(self) -> str:
        """Start, most, end and slope, in one line."""
        held, settled = self.anonymous + self.files, self.settled()
        slope = np.polyfit(self.steps[settled], held[settled], 1)[0] if len(settled) > 1 else 0.0
        return (
            f"{held[0]:,.0f} MiB before the first batch, at most {held.max():,.0f}, at the end {held[-1]:,.0f} (of it "
            f"{self.files[-1]:,.0f} mapped files); {1000 * slope:+.1f} MiB per 1,000 steps after step "
            f"{self.steps[settled[0]]}"
        )

    def row(self, name: str) -> Row:
        """The last part of the steps against the first, as a comparison."""
        held = (self.anonymous + self.files)[self.settled()]
        part = max(1, round(len(held) * _PART))
        early, late = held[:part].mean(), held[-part:].mean()
        against = f"{early:,.0f} MiB after {self.steps[self.settled()[0]]:,} steps"
        return Row(name, float(late), "MiB", against, float(late / early), _MOST_GROWTH, more_is_better=False)


def memory_use(folder: Path, batch_size: int, steps: int) -> MemoryUse:
    """Makes training batches of 64x80 pixels from prepared data and measures this process now and then."""
    from catalogues import QUERY_TOKENS, TITLE_TOKENS

    from data_pipelines.dataset import open_prepared
    from data_pipelines.feed_settings import BatchShape, Sampling
    from data_pipelines.input import train_batches
    from data_pipelines.plans import TrainPlans

    data = open_prepared(folder)
    shape = BatchShape(QUERY_TOKENS, TITLE_TOKENS, (80, 64))
    plans = TrainPlans(data, Sampling(batch_size, seed=0), shape, 0, 1)
    samples = [(0, *_held())]
    with train_batches(data, plans, num_steps=steps) as batches:
        for step in itertools.count(1):
            if next(batches, None) is None:
                break
            if step % _EVERY == 0 or step == steps:
                samples.append((step, *_held()))
    columns = np.array(samples)
    return MemoryUse(columns[:, 0].astype(np.int64), columns[:, 1], columns[:, 2])


def _held() -> tuple[float, float]:
    """MiB of its own and of mapped files (memory shared with other processes, which it has none of, is its own)."""
    fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
    own, files, shared = (int(fields[name].split()[0]) / _MIB for name in ("RssAnon", "RssFile", "RssShmem"))
    return own + shared, files
