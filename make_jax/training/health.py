"""What a log line tells beside the losses: whether the vectors collapse, and how much memory is used."""

from __future__ import annotations

import os
import time
from pathlib import Path

import jax
import numpy as np

_NOTHING = 1e-6  # of the largest eigenvalue: float32 knows no smaller ones
_GIB = 2**30
_SHARE = 0.01  # of the time
_STATM = Path("/proc/self/statm")


def effective_rank(moments: np.ndarray) -> float:
    """Of the vectors whose second moments, float32[E, E], these are: from 1, all on one line, to E.

    exp of the entropy of their singular values as shares (Roy & Vetterli 2007; RankMe, Garrido et al. 2023). NaN where
    a moment is not finite or all are 0.
    """
    if not np.isfinite(moments).all():
        return float("nan")
    eigenvalues = np.linalg.eigvalsh(moments.astype(np.float64))
    singular = np.sqrt(eigenvalues[eigenvalues > _NOTHING * eigenvalues[-1]])
    if not singular.size or singular[-1] == 0:
        return float("nan")
    shares = singular / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def ranks(moments: np.ndarray) -> dict[str, float]:
    """`query_rank` and `product_rank` of float32[2, E, E], see `objectives.spread`."""
    return {name: effective_rank(of) for name, of in zip(("query_rank", "product_rank"), moments, strict=True)}


class SparingRanks:
    """`ranks`, or {} where they would take more than a hundredth of the time: with wide vectors and short steps."""

    def __init__(self) -> None:
        self._not_before = 0.0

    def __call__(self, moments: np.ndarray) -> dict[str, float]:
        """See `ranks`."""
        began = time.monotonic()
        if began < self._not_before:
            return {}
        found, ended = ranks(moments), time.monotonic()
        self._not_before = ended + (ended - began) / _SHARE
        return found


def memory() -> dict[str, float]:
    """GiB that this process has resident, and those in use on the fullest of its devices, where that is known."""
    found = {}
    if _STATM.exists():  # Linux
        found["host_memory_gib"] = int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / _GIB
    stats = [known for device in jax.local_devices() if (known := device.memory_stats())]
    for name, key in (("device_memory_gib", "bytes_in_use"), ("device_memory_peak_gib", "peak_bytes_in_use")):
        sizes = [known[key] for known in stats if key in known]
        if sizes:
            found[name] = max(sizes) / _GIB
    return found
