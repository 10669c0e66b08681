"""Random numbers as a pure function of keys: nothing to carry along, and the same on every host and at every step."""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # the step of SplitMix64; without it a key of 0 would stay 0


def mix(values: np.ndarray) -> np.ndarray:
    """Scatters uint64 values over all 64 bits (the finaliser of SplitMix64); wraps around on purpose."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hash_keys(*keys: np.ndarray | int) -> np.ndarray:
    """Hashes tuples of whole numbers.

    Args:
      keys: int arrays that broadcast against each other, or ints; their order matters.

    Returns:
      uint64 of the broadcast shape, at least one-dimensional; tuples that differ anywhere give unrelated numbers.
    """
    state = np.zeros(1, np.uint64)
    for key in keys:
        state = mix((state ^ np.asarray(key).astype(np.uint64)) + _GOLDEN)
    return state


def uniform(hashes: np.ndarray) -> np.ndarray:
    """Turns uint64 hashes into float64 numbers in [0, 1)."""
    return (hashes >> np.uint64(11)) * 2.0**-53
