"""The training order is a permutation, follows the weights, and depends on nothing but seed and step."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.order import PairOrder, pair_weights, permute

weights_strategy = st.lists(st.floats(0, 1e6), min_size=1, max_size=200).filter(lambda w: sum(w) > 0)


def keys_of(seed: int) -> np.ndarray:
    return np.random.SeedSequence(seed).generate_state(8, np.uint64)


@given(size=st.integers(1, 3000), seed=st.integers(0, 2**32))
def test_permute_is_a_permutation(size: int, seed: int) -> None:
    values = permute(np.arange(size), size, keys_of(seed))
    assert np.array_equal(np.sort(values), np.arange(size))


@given(
    size=st.integers(1, 2**40),
    seed=st.integers(0, 2**32),
    at=st.lists(st.integers(0, 2**40), min_size=1, max_size=50, unique=True),
)
def test_permute_of_large_sets_stays_inside_and_apart(size: int, seed: int, at: list[int]) -> None:
    positions = np.unique(np.array(at) % size)
    values = permute(positions, size, keys_of(seed))
    assert values.min() >= 0
    assert values.max() < size
    assert len(np.unique(values)) == len(positions)


def test_permutations_look_random() -> None:
    """Where a position lands is uniform over seeds, and neighbours land independently of each other."""
    size, seeds = 101, 4000
    landed = np.array([permute(np.arange(2), size, keys_of(seed)) for seed in range(seeds)])
    for column in landed.T:
        counts = np.bincount(column, minlength=size)
        chi_square = ((counts - seeds / size) ** 2 / (seeds / size)).sum()
        assert chi_square < size + 5 * np.sqrt(2 * size)
    assert abs(np.corrcoef(landed.T)[0, 1]) < 0.06


@given(
    weights=weights_strategy,
    batch_size=st.integers(1, 300),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 50),
)
def test_an_epoch_follows_the_weights(weights: list[float], batch_size: int, seed: int, epoch: int) -> None:
    pairs = len(weights)
    order = PairOrder(np.array(weights), batch_size, seed)
    first, last = epoch * pairs, (epoch + 1) * pairs
    steps = range(first // batch_size, -(-last // batch_size))
    drawn = np.concatenate([order.batch(step) for step in steps])
    offset = first - steps[0] * batch_size
    counts = np.bincount(drawn[offset : offset + pairs], minlength=pairs)
    expected = pairs * np.array(weights) / sum(weights)
    assert np.abs(counts - expected).max() < 2
    assert counts[np.array(weights) == 0].sum() == 0


@given(
    hosts=st.sampled_from([1, 2, 3, 4, 6, 12]),
    pairs=st.integers(1, 50),
    step=st.integers(0, 10**6),
    seed=st.integers(0, 1000),
)
def test_parts_of_the_hosts_make_the_global_batch(hosts: int, pairs: int, step: int, seed: int) -> None:
    order = PairOrder(np.arange(1.0, pairs + 1), 12, seed)
    parts = [order.batch(step, host, hosts) for host in range(hosts)]
    assert np.array_equal(np.concatenate(parts), order.batch(step))


def test_a_late_step_needs_no_earlier_one() -> None:
    weights = np.random.default_rng(0).random(1000)
    walked = PairOrder(weights, 64, seed=7)
    for step in range(999_990, 1_000_000):
        walked.batch(step)
    assert np.array_equal(walked.batch(1_000_000), PairOrder(weights, 64, seed=7).batch(1_000_000))


def test_seeds_and_epochs_differ() -> None:
    weights = np.ones(640)
    order = PairOrder(weights, 64, seed=1)
    assert not np.array_equal(order.batch(0), PairOrder(weights, 64, seed=2).batch(0))
    assert not np.array_equal(order.batch(0), order.batch(10))


def test_the_order_is_frozen() -> None:
    """Runs that resume under a newer version must go on in the same order."""
    order = PairOrder(np.arange(1.0, 101), 8, seed=3)
    assert order.batch(12_345).tolist() == [84, 72, 58, 68, 47, 97, 89, 90]


def test_pair_weights() -> None:
    interactions = {
        "clicks": np.array([0, 1, 16, 0], np.int32),
        "purchases": np.array([0, 0, 0, 2], np.int32),
    }
    assert pair_weights(interactions, 0.5, 8.0).tolist() == [0, 1, 4, 4]
    assert pair_weights(interactions, 0.0, 8.0).tolist() == [0, 1, 1, 1]
    with pytest.raises(DataError, match="popularity_power=-1"):
        pair_weights(interactions, -1, 1.0)


def test_order_refuses_what_it_cannot_draw() -> None:
    for weights in ([], [0.0, 0.0], [1.0, np.nan], [1.0, -1.0]):
        with pytest.raises(DataError, match="cannot draw training pairs"):
            PairOrder(np.array(weights), 4, seed=0)
    with pytest.raises(DataError, match="batch_size=0"):
        PairOrder(np.ones(3), 0, seed=0)
    with pytest.raises(DataError, match="batch_size=10 cannot be shared evenly by 4 hosts"):
        PairOrder(np.ones(3), 10, seed=0).batch(0, 0, 4)
