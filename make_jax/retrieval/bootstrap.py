"""How sure a difference between two systems is: the paired bootstrap over queries, and over seeds where there are."""

from __future__ import annotations

import numpy as np

_AT_ONCE = 1000  # resamples; with 10,000 queries 80 MB


def paired_bootstrap(
    ours: np.ndarray, theirs: np.ndarray, samples: int = 10_000, seed: int = 0, level: float = 0.95
) -> tuple[float, float, float]:
    """The difference of the means of a metric, and its percentile interval.

    Queries are drawn with replacement, the same ones for both systems: that is the pairing. Runs of different seeds
    have nothing in common, so the runs of either side are drawn apart, as soon as a side has two; S - 1 of S are drawn,
    which gives the variance of a mean of few runs without bias (Rao and Wu, 1988). A side with a single run counts as
    exact: the interval then says nothing of how another seed would have come out. Queries without a value anywhere
    are left out.

    Args:
      ours: float64[S, Q], a row a run, a column a query.
      theirs: float64[S2, Q], of the same queries.
      samples: how often to draw.
      seed: of the draws.
      level: of the interval.

    Returns:
      Mean of ours minus mean of theirs, lower and upper bound; NaN where no query is left.

    Raises:
      ValueError: shapes that do not fit, or no resamples.
    """
    if ours.ndim != 2 or theirs.ndim != 2 or ours.shape[1] != theirs.shape[1] or not len(ours) or not len(theirs):
        raise ValueError(f"values of shapes {ours.shape} and {theirs.shape}; give [runs, queries] of the same queries")
    if samples < 1 or not 0 < level < 1:
        raise ValueError(f"{samples} samples at level {level}; give at least 1 and a level between 0 and 1")
    keep = ~(np.isnan(ours).any(axis=0) | np.isnan(theirs).any(axis=0))
    if not keep.any():
        return float("nan"), float("nan"), float("nan")
    ours, theirs = ours[:, keep], theirs[:, keep]
    random = np.random.default_rng(seed)
    drawn = np.concatenate([
        _resampled(ours, theirs, min(_AT_ONCE, samples - done), random) for done in range(0, samples, _AT_ONCE)
    ])  # fmt: skip
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(ours.mean() - theirs.mean()), float(low), float(high)


def _resampled(ours: np.ndarray, theirs: np.ndarray, samples: int, random: np.random.Generator) -> np.ndarray:
    """The difference of the means in so many resamples, float64[samples]."""
    count = ours.shape[1]
    queries = random.multinomial(count, np.full(count, 1 / count), samples) / count
    means = []
    for values in (ours, theirs):
        runs = len(values)
        drawn = random.multinomial(max(1, runs - 1), np.full(runs, 1 / runs), samples) / max(1, runs - 1)
        means.append(((queries @ values.T) * drawn).sum(axis=1))
    return means[0] - means[1]
