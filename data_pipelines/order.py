"""The training order: which pairs are in which batch, as a pure function of (seed, step).

Nothing is shuffled in memory and nothing has to be remembered: any step of any epoch costs the same, so a run
resumes from its step number alone, and the order does not depend on how many hosts read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.hashing import mix, uniform
from data_pipelines.permutation import ROUNDS, permute

WINDOW = 16  # groups in use at a time


def pair_weights(
    interactions: Mapping[str, np.ndarray],
    popularity_power: float,
    purchase_weight: float,
    recency_half_life: float | None = None,
) -> np.ndarray:
    """How often to draw each pair: `(clicks + purchase_weight * purchases) ** power * 0.5 ** (age / half_life)`.

    A power of 1 follows the click log, so a few popular pairs fill the batches; 0 draws every pair that was
    clicked or bought equally often; 0.75, between them, is the usual damping of word2vec's negative
    sampling.

    Args:
      interactions: `clicks`, `purchases` and `last_day`, int arrays [pairs]; `last_day` is -1 where unknown.
      popularity_power: at least 0.
      purchase_weight: how many clicks a purchase is worth on top of its own click, at least 0.
      recency_half_life: after how many days a pair counts half, above 0; None for no such thing. Age is counted
        from the last day in the log; a pair of unknown day is as old as the oldest of known day.

    Returns:
      float64[pairs], not normalised; 0 where there was neither a click nor a purchase.

    Raises:
      DataError: a negative power or purchase weight, or a half-life that is not positive.
    """
    if popularity_power < 0 or purchase_weight < 0:
        raise DataError(f"popularity_power={popularity_power} and purchase_weight={purchase_weight} must be at least 0")
    strength = interactions["clicks"] + purchase_weight * interactions["purchases"].astype(np.float64)
    weights = np.where(strength > 0, np.maximum(strength, 0) ** popularity_power, 0.0)
    return weights if recency_half_life is None else weights * _recency(interactions["last_day"], recency_half_life)


def with_cold(weights: np.ndarray, num_pseudo_pairs: int, cold_share: float) -> np.ndarray:
    """Appends the pseudo pairs of products that nobody has clicked, so that these are learnt from too.

    Args:
      weights: float[pairs], of the pairs in the log.
      num_pseudo_pairs: how many pseudo pairs follow them.
      cold_share: the share of all draws that are pseudo pairs, each as likely as the next; from 0 to below 1.

    Returns:
      float64[pairs + num_pseudo_pairs].

    Raises:
      DataError: a share out of bounds.
    """
    if not 0 <= cold_share < 1:
        raise DataError(f"cold_share={cold_share} is out of bounds; choose from 0 to below 1")
    total = weights.sum() * cold_share / (1 - cold_share)
    return np.concatenate([weights, np.full(num_pseudo_pairs, total / max(1, num_pseudo_pairs))])


def with_swaps(weights: np.ndarray, products: np.ndarray, share: float) -> np.ndarray:
    """Shows products under another of their queries than the one drawn, each as likely, in a share of the draws.

    A product is drawn as often as before, and so are its queries together; the rarer ones come more often.

    Args:
      weights: float64[pairs], all pairs different.
      products: int[pairs], the product of each.
      share: from 0 to 1.

    Returns:
      float64[pairs], how often to draw each pair so that this is what comes of it.

    Raises:
      DataError: a share out of bounds.
    """
    if not 0 <= share <= 1:
        raise DataError(f"query_swap={share} is out of bounds; choose from 0 to 1")
    drawn = weights > 0  # other pairs are no queries to show
    others = np.bincount(products, weights=drawn)[products] - 1
    given = (np.bincount(products, weights=weights)[products] - weights) / np.maximum(others, 1)
    return np.where(drawn & (others > 0), (1 - share) * weights + share * given, weights)


def _recency(last_day: np.ndarray, half_life: float) -> np.ndarray:
    if not half_life > 0:
        raise DataError(f"recency_half_life={half_life} must be above 0 days; leave it out to ignore the days")
    known = last_day[last_day >= 0]
    if not len(known):
        return np.ones(len(last_day))
    days = np.where(last_day >= 0, last_day, known.min()).astype(np.float64)
    return 0.5 ** ((known.max() - days) / half_life)


class _Visit(NamedTuple):
    """The groups in the order an epoch visits them, laid end to end over the places [0, pairs).

    Attributes:
      groups: int64[G].
      starts: int64[G + 1], the place where each begins.
      strata: int64[G], its first stratum.
    """

    groups: np.ndarray
    starts: np.ndarray
    strata: np.ndarray


class PairOrder:
    """Draws pairs with probability proportional to weight, evenly spread over every epoch.

    An epoch is as many draws as there are pairs. The weights laid end to end are cut into that many equal
    strata; an epoch visits every stratum once, in an order of its own, and draws one point in it. So within
    an epoch each pair comes up as often as its weight says, give or take less than two draws. A batch can
    hold a pair twice.

    Without groups the strata of an epoch come in any order. With groups (the shard of each pair's product) the
    same strata come in a weaker order, made for reading whole shards: an epoch shuffles the groups, lays them end
    to end and cuts them into `window` lanes of equal length, and every batch takes its equal parts from all the
    lanes. Inside a group strata are shuffled. So about `window` groups are in use at a time; as one is used up in
    its lane, the next one follows. A lane always fills the same slots of the batch, so a host that takes
    1/P of the batch reads only 1/P of the groups at a time.
    """

    def __init__(
        self,
        weights: np.ndarray,
        batch_size: int,
        seed: int,
        groups: np.ndarray | None = None,
        window: int = WINDOW,
    ) -> None:
        """Prepares the order.

        Args:
          weights: float[pairs], finite, at least 0, not all 0.
          batch_size: B, the number of pairs in a global batch.
          seed: at least 0.
          groups: int[pairs], which group each pair belongs to, ascending; None for no groups.
          window: how many groups are in use at a time, at least 1.

        Raises:
          DataError: weights, batch size, seed or window outside these bounds.
          ValueError: groups that are not ascending.
        """
        if len(weights) == 0 or not np.isfinite(weights).all() or weights.min() < 0 or weights.max() == 0:
            raise DataError(
                f"cannot draw training pairs: of {len(weights)} weights, {np.count_nonzero(weights > 0)} are "
                "positive; prepare the data with --interactions that hold clicks or purchases"
            )
        if batch_size < 1 or seed < 0 or window < 1:
            raise DataError(
                f"batch_size={batch_size} and window={window} must be at least 1 and seed={seed} at least 0"
            )
        self.pairs_per_epoch = len(weights)
        self.batch_size = batch_size
        self._seed = seed
        cumulative = np.cumsum(weights, dtype=np.float64)
        self._cumulative = cumulative / cumulative[-1]
        self._grouped = groups is not None
        if groups is not None:
            steps = np.diff(groups, append=groups[-1] + 1)
            if steps.min() < 0:
                raise ValueError("groups must be ascending")
            self._group_ends = self._cumulative[np.flatnonzero(steps)]
            self._slots = np.arange(window + 1) * batch_size // window  # where each lane's part of a batch begins
            self._visit = lru_cache(maxsize=2)(self._plan_visit)

    def batch(self, step: int, process_index: int = 0, process_count: int = 1) -> np.ndarray:
        """The rows of one host's part of the batch at `step`.

        Args:
          step: at least 0.
          process_index: which host, 0 <= process_index < process_count.
          process_count: P; the parts of hosts 0..P-1 laid end to end are the global batch.

        Returns:
          int64[B / P] row numbers into the weights.

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
        keys = self._keys(epoch)
        if not self._grouped:
            strata = permute(positions, self.pairs_per_epoch, keys[:-1])
        else:
            strata = self._grouped_strata(epoch, positions)
        return np.searchsorted(self._cumulative, self._points(strata, keys[-1]), side="right")

    def _keys(self, *what: int) -> np.ndarray:
        return np.random.SeedSequence([self._seed, *what]).generate_state(ROUNDS + 1, np.uint64)

    def _points(self, strata: np.ndarray, key: np.uint64) -> np.ndarray:
        """The point in [0, 1) that an epoch draws in each stratum."""
        within = uniform(mix(strata.astype(np.uint64) + key))
        return np.minimum((strata + within) / self.pairs_per_epoch, np.nextafter(1.0, 0.0))

    def _grouped_strata(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        visit = self._visit(epoch)
        places = self._places(epoch, positions)
        at = np.searchsorted(visit.starts, places, side="right") - 1
        strata = np.empty(len(places), np.int64)
        for index in np.unique(at):
            chosen = at == index
            size = int(visit.starts[index + 1] - visit.starts[index])
            keys = self._keys(epoch, 1 + int(visit.groups[index]))[:-1]
            strata[chosen] = visit.strata[index] + permute(places[chosen] - visit.starts[index], size, keys)
        return strata

    def _plan_visit(self, epoch: int) -> _Visit:
        """Shuffles the groups; a stratum belongs to the group of the pair that this epoch draws in it."""
        keys, ends = self._keys(epoch), self._group_ends
        # Only strata next to a group's end need a look, the point of any other is clearly before or behind it.
        lowest = np.maximum((ends * self.pairs_per_epoch).astype(np.int64) - 1, 0)
        near = lowest[:, None] + np.arange(3)
        before = (self._points(near, keys[-1]) < ends[:, None]) & (near < self.pairs_per_epoch)
        stops = lowest + before.sum(axis=1)
        counts = np.diff(stops, prepend=0)
        groups = permute(np.arange(len(ends)), len(ends), keys[:-1])
        starts = np.concatenate([[0], np.cumsum(counts[groups])])
        return _Visit(groups, starts, (stops - counts)[groups])

    def _places(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        """Where in the visited groups, end to end, the draws at these positions of the epoch are."""
        widths = np.diff(self._slots)

        def taken(draw: int) -> np.ndarray:
            """int64[lanes]: how many draws each lane gave before this one."""
            return draw // self.batch_size * widths + np.clip(draw % self.batch_size - self._slots[:-1], 0, widths)

        first = epoch * self.pairs_per_epoch
        before = taken(first)
        sizes = taken(first + self.pairs_per_epoch) - before
        batches, slots = np.divmod(first + positions, self.batch_size)
        lanes = np.searchsorted(self._slots, slots, side="right") - 1
        ranks = batches * widths[lanes] + slots - self._slots[lanes] - before[lanes]
        # Each lane begins a little further into its groups, so that not all of them change groups at once.
        stagger = lanes * self.pairs_per_epoch // (len(widths) * len(self._group_ends))
        return (np.cumsum(sizes) - sizes)[lanes] + (ranks + stagger) % sizes[lanes]
