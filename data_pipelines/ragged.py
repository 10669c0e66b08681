"""Sequences of unequal length in two flat arrays, which costs millions of them no Python objects."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Ragged(NamedTuple):
    """n sequences end to end: sequence i is `values[splits[i]:splits[i + 1]]`, `splits` int64[n + 1]."""

    values: np.ndarray
    splits: np.ndarray

    def lengths(self) -> np.ndarray:
        """int64[n]: how long each sequence is."""
        return np.diff(self.splits)

    def take(self, rows: np.ndarray) -> Ragged:
        """The sequences `rows`, int[m], in that order; rows may repeat."""
        lengths = self.splits[rows + 1] - self.splits[rows]
        splits = np.concatenate([[0], np.cumsum(lengths)])
        index = np.arange(splits[-1]) + np.repeat(self.splits[rows] - splits[:-1], lengths)
        return Ragged(self.values[index], splits)


def gather_ragged(values: np.ndarray, starts: np.ndarray, ends: np.ndarray, width: int, padding: int) -> np.ndarray:
    """Lays the slices `values[starts[i]:ends[i]]` under each other: [n, width], cut or padded to `width`."""
    index = starts[:, None] + np.arange(width)
    padded = np.append(values, values.dtype.type(padding))
    return padded[np.where(index < ends[:, None], index, len(values))]


def pad_tokens(tokens: Ragged, width: int, padding: int) -> np.ndarray:
    """Lays token sequences under each other.

    Args:
      tokens: int, B sequences; their last token ends them ([SEP] or its like).
      width: T or Q; a longer sequence loses tokens before its last one.
      padding: what fills shorter ones.

    Returns:
      int32[B, width].
    """
    starts, ends = tokens.splits[:-1], tokens.splits[1:]
    padded = gather_ragged(tokens.values.astype(np.int32), starts, ends, width, padding)
    longer = ends - starts > width
    padded[longer, -1] = tokens.values[ends[longer] - 1]
    return padded
