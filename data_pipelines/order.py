"""The training order: which pairs are in which batch, as a pure function of (seed, step).

Nothing is shuffled in memory and nothing has to be remembered: any step of any epoch costs the same, so a run
resumes from its step number alone, and the order does not depend on how many hosts read it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from data_pipelines.errors import DataError

_ROUNDS = 8  # of the Feistel network: 4 are the least that look random, more for very small domains


def pair_weights(
    interactions: Mapping[str, np.ndarray],
    popularity_power: float,
    purchase_weight: float,
) -> np.ndarray:
    """How often to draw each (query, product) pair: `(clicks + purchase_weight * purchases) ** power`.

    A power of 1 follows the click log, so a few popular pairs fill the batches; 0 draws every pair that was
    clicked or bought equally often; 0.75, between them, is the usual damping of word2vec's negative
    sampling.

    Args:
      interactions: `clicks` and `purchases`, int arrays [pairs].
      popularity_power: at least 0.
      purchase_weight: how many clicks a purchase is worth on top of its own click, at least 0.

    Returns:
      float64[pairs], not normalised; 0 where there was neither a click nor a purchase.

    Raises:
      DataError: a negative power or purchase weight.
    """
    if popularity_power < 0 or purchase_weight < 0:
        raise DataError(f"popularity_power={popularity_power} and purchase_weight={purchase_weight} must be at least 0")
    strength = interactions["clicks"] + purchase_weight * interactions["purchases"].astype(np.float64)
    return np.where(strength > 0, np.maximum(strength, 0) ** popularity_power, 0.0)


class PairOrder:
    """Draws interaction rows with probability proportional to weight, evenly spread over every epoch.

    An epoch is as many draws as there are pairs. The weights laid end to end are cut into that many equal
    strata; an epoch visits every stratum once, in an order of its own, and draws one point in it. So within
    an epoch each pair comes up as often as its weight says, give or take less than two draws. A batch can
    hold a pair twice.
    """

    def __init__(self, weights: np.ndarray, batch_size: int, seed: int) -> None:
        """Prepares the order.

        Args:
          weights: float[pairs], finite, at least 0, not all 0.
          batch_size: B, the number of pairs in a global batch.
          seed: at least 0.

        Raises:
          DataError: weights, batch size or seed outside these bounds.
        """
        if len(weights) == 0 or not np.isfinite(weights).all() or weights.min() < 0 or weights.max() == 0:
            raise DataError(
                f"cannot draw training pairs: of {len(weights)} weights, {np.count_nonzero(weights > 0)} are "
                "positive; prepare the data with --interactions that hold clicks or purchases"
            )
        if batch_size < 1 or seed < 0:
            raise DataError(f"batch_size={batch_size} must be at least 1 and seed={seed} at least 0")
        self.pairs_per_epoch = len(weights)
        self.batch_size = batch_size
        self._seed = seed
        cumulative = np.cumsum(weights, dtype=np.float64)
        self._cumulative = cumulative / cumulative[-1]

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> np.ndarray:
        """The interaction rows of one host's part of the batch at `step`.

        Args:
          step: at least 0.
          process_index: which host, 0 <= process_index < process_count.
          process_count: P; the parts of hosts 0..P-1 laid end to end are the global batch.

        Returns:
          int64[B / P] row numbers into the interactions.

        Raises:
          DataError: the batch cannot be shared out evenly.
        """
        share = self.share(process_count)
        first = step * self.batch_size + process_index * share
        epochs, positions = np.divmod(np.arange(first, first + share, dtype=np.int64), self.pairs_per_epoch)
        rows = np.empty(share, np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = self._draw(int(epoch), positions[chosen])
        return rows

    def share(self, process_count: int) -> int:
        """The size of one host's part of a batch.

        Raises:
          DataError: the batch cannot be shared out evenly.
        """
        if self.batch_size % process_count:
            raise DataError(
                f"batch_size={self.batch_size} cannot be shared evenly by {process_count} hosts; "
                f"make it a multiple of {process_count}"
            )
        return self.batch_size // process_count

    def _draw(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        keys = np.random.SeedSequence([self._seed, epoch]).generate_state(_ROUNDS + 1, np.uint64)
        strata = permute(positions, self.pairs_per_epoch, keys[:-1])
        within = (_mix(strata.astype(np.uint64) + keys[-1]) >> np.uint64(11)) * 2.0**-53
        points = np.minimum((strata + within) / self.pairs_per_epoch, np.nextafter(1.0, 0.0))
        return np.searchsorted(self._cumulative, points, side="right")


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
        left, right = right, (left + _mix(right + key) % base) % base
    return left * base + right


def _mix(values: np.ndarray) -> np.ndarray:
    """Scatters uint64 values over all 64 bits (the finaliser of SplitMix64); wraps around on purpose."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
