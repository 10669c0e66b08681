"""Pseudo-random permutations of sets of any size, which need no memory."""

from __future__ import annotations

import math

import numpy as np

from data_pipelines.hashing import mix

ROUNDS = 8  # of the Feistel network: 4 are the least that look random, more for very small domains


def permute(positions: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
    """Applies a pseudo-random permutation of [0, size) without holding it in memory.

    A Feistel network over pairs (left, right) of digits to base ceil(sqrt(size)); the few values that fall
    outside [0, size) are sent through it again until they come back inside.

    Args:
      positions: int64[n] in [0, size).
      size: of the set that is permuted, at least 1.
      keys: uint64[rounds], which permutation.

    Returns:
      int64[n] in [0, size); different positions give different values.
    """
    base = np.uint64(math.isqrt(size - 1) + 1)
    values = _feistel(positions.astype(np.uint64), base, keys)
    outside = np.flatnonzero(values >= size)
    while outside.size:
        values[outside] = _feistel(values[outside], base, keys)
        outside = outside[values[outside] >= size]
    return values.astype(np.int64)


def _feistel(values: np.ndarray, base: np.uint64, keys: np.ndarray) -> np.ndarray:
    left, right = np.divmod(values, base)
    for key in keys:
        left, right = right, (left + mix(right + key) % base) % base
    return left * base + right
