"""Queries with a word less or in another order, as a pure function of the texts and their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.hashing import hash_keys, uniform

_DROP, _WHICH, _SHUFFLE, _ORDER = range(1 << 20, (1 << 20) + 4)  # streams that nothing else draws from


@dataclass(frozen=True)
class QueryVariation:
    """Shows queries as other shoppers would type them. Words are what stands between white space.

    So compounds stay whole, and a query in a script without spaces is left as it is.

    Attributes:
      drop: of the queries with two words or more, the share that loses one, whichever.
      shuffle: of those that still have two, the share whose words change places.

    Raises:
      DataError: a share out of bounds.
    """

    drop: float = 0.0
    shuffle: float = 0.0

    def __post_init__(self) -> None:
        for name, share in (("drop", self.drop), ("shuffle", self.shuffle)):
            if not 0 <= share <= 1:
                raise DataError(f"{name}={share} is out of bounds; choose from 0 to 1")

    def vary(self, texts: Sequence[str], keys: np.ndarray) -> list[str]:
        """The texts, some of them changed.

        Args:
          texts: n queries.
          keys: int64[n, 2], decides what happens to each.
        """
        drops = uniform(hash_keys(keys[:, 0], keys[:, 1], _DROP)) < self.drop
        shuffles = uniform(hash_keys(keys[:, 0], keys[:, 1], _SHUFFLE)) < self.shuffle
        varied = list(texts)
        for row in np.flatnonzero(drops | shuffles).tolist():
            words = texts[row].split()
            if drops[row] and len(words) > 1:
                del words[int(hash_keys(*keys[row], _WHICH)[0] % np.uint64(len(words)))]
            if shuffles[row] and len(words) > 1:
                words = _reordered(words, hash_keys(*keys[row], _ORDER, np.arange(len(words))))
            varied[row] = " ".join(words)
        return varied


def _reordered(words: list[str], hashes: np.ndarray) -> list[str]:
    """The words in the order of their hashes; reversed, should that be the order they are in."""
    order = np.argsort(hashes, kind="stable")
    if (order == np.arange(len(words))).all():
        order = order[::-1]
    return [words[place] for place in order]
