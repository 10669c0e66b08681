"""The paired bootstrap against scipy's, against the known variance of few runs, and that pairing pays."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from make_jax.retrieval.bootstrap import paired_bootstrap


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    hard = rng.random(200)
    return hard + rng.normal(0.02, 0.1, 200), hard


def test_agrees_with_scipy(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ours, theirs = pair
    found = paired_bootstrap(ours[None], theirs[None], samples=20_000)
    expected = stats.bootstrap(
        (ours, theirs),
        lambda a, b, axis: np.mean(a, axis) - np.mean(b, axis),
        paired=True,
        vectorized=True,
        n_resamples=20_000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found[0] == pytest.approx((ours - theirs).mean())
    assert found[1:] == pytest.approx((expected.low, expected.high), abs=5e-4)


def test_pairing_narrows_the_interval(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ours, theirs = pair
    _, low, high = paired_bootstrap(ours[None], theirs[None])
    _, low_unpaired, high_unpaired = paired_bootstrap(ours[None], np.random.default_rng(3).permutation(theirs)[None])
    assert high - low < (high_unpaired - low_unpaired) / 2


def test_runs_are_drawn_with_their_true_variance() -> None:
    """Where only the seed matters, the variance of a difference is the sum of s² / S of both sides."""
    ours = np.array([[0.1], [0.2], [0.6]]) + np.zeros((3, 50))
    theirs = np.array([[0.0], [0.4]]) + np.zeros((2, 50))
    _, low, high = paired_bootstrap(ours, theirs, samples=100_000, level=0.9999)
    assert low >= 0.1 - 0.4 - 1e-9
    assert high <= 0.6 - 0 + 1e-9
    from make_jax.retrieval.bootstrap import _resampled

    drawn = _resampled(ours, theirs, 50_000, np.random.default_rng(0))
    expected = np.var([0.1, 0.2, 0.6], ddof=1) / 3 + np.var([0.0, 0.4], ddof=1) / 2
    assert drawn.var() == pytest.approx(expected, rel=0.03)


def test_a_system_against_itself_is_no_different(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert paired_bootstrap(pair[0][None], pair[0][None]) == (0, 0, 0)


def test_queries_without_a_value_are_left_out(pair: tuple[np.ndarray, np.ndarray]) -> None:
    ours, theirs = (np.append(values, [np.nan, 5.0])[None] for values in pair)
    theirs[0, -1] = np.nan
    assert paired_bootstrap(ours, theirs) == paired_bootstrap(ours[:, :-2], theirs[:, :-2])
    assert np.isnan(paired_bootstrap(ours[:, -2:], theirs[:, -2:])).all()


@pytest.mark.parametrize(
    ("ours", "theirs", "samples"),
    [(np.ones(3), np.ones(3), 10), (np.ones((1, 3)), np.ones((1, 4)), 10), (np.ones((1, 3)), np.ones((1, 3)), 0)],
)
def test_what_does_not_fit_is_refused(ours: np.ndarray, theirs: np.ndarray, samples: int) -> None:
    with pytest.raises(ValueError, match=r"shapes|samples"):
        paired_bootstrap(ours, theirs, samples)
