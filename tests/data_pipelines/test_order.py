"""The training order is a permutation, follows the weights, and depends on nothing but seed and step."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import order as order_module
from data_pipelines.errors import DataError
from data_pipelines.order import PairOrder, pair_weights, with_cold, with_swaps
from data_pipelines.permutation import permute

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


@settings(deadline=None)
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


@settings(deadline=None)
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


def epoch_of(order: PairOrder, epoch: int) -> np.ndarray:
    """The rows of one epoch, in order."""
    first = epoch * order.pairs_per_epoch
    steps = range(first // order.batch_size, -(-(first + order.pairs_per_epoch) // order.batch_size))
    drawn = np.concatenate([order.batch(step) for step in steps])
    return drawn[first - steps[0] * order.batch_size :][: order.pairs_per_epoch]


@settings(deadline=None)
@given(
    weights=weights_strategy,
    batch_size=st.integers(1, 100),
    window=st.integers(1, 20),
    epoch=st.integers(0, 50) | st.integers(10**6, 10**6 + 50),
    data=st.data(),
)
def test_a_streamed_epoch_holds_the_same_draws(
    weights: list[float], batch_size: int, window: int, epoch: int, data: st.DataObject
) -> None:
    """Groups change the order within an epoch only: every stratum is visited once, so the bounds are the same."""
    count = len(weights)
    groups = np.sort(data.draw(st.lists(st.integers(0, 30), min_size=count, max_size=count)))
    streamed = PairOrder(np.array(weights), batch_size, 3, groups, window)
    shuffled = PairOrder(np.array(weights), batch_size, 3)
    assert np.array_equal(np.sort(epoch_of(streamed, epoch)), np.sort(epoch_of(shuffled, epoch)))


@settings(deadline=None)
@given(
    hosts=st.sampled_from([1, 2, 3, 4, 6, 12]),
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20),
    step=st.integers(0, 10**6),
    window=st.integers(1, 20),
)
def test_parts_of_the_hosts_make_the_streamed_batch(hosts: int, sizes: list[int], step: int, window: int) -> None:
    groups = np.repeat(np.arange(len(sizes)), sizes)
    order = PairOrder(np.arange(1.0, len(groups) + 1), 12, 5, groups, window)
    parts = [order.batch(step, host, hosts) for host in range(hosts)]
    assert np.array_equal(np.concatenate(parts), order.batch(step))


GROUPS, WINDOW = 60, 8


def streamed_order(equal: bool) -> tuple[PairOrder, np.ndarray]:
    """An order over groups of equal or unequal weight, and the group of every pair."""
    random = np.random.default_rng(1)
    sizes = np.full(GROUPS, 300) if equal else random.integers(50, 500, GROUPS)
    groups = np.repeat(np.arange(GROUPS), sizes)
    weights = np.ones(len(groups)) if equal else random.random(len(groups))
    return PairOrder(weights, 64, 2, groups, WINDOW), groups


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("hosts", [1, 4])
def test_few_groups_are_in_use_at_a_time(equal: bool, hosts: int) -> None:
    """Whoever keeps `window` groups and two more fetches each group about once an epoch, however hosts share them."""
    order, groups = streamed_order(equal)
    steps = range(order.pairs_per_epoch // 64, 2 * order.pairs_per_epoch // 64)
    fetches = 0
    for host in range(hosts):
        kept: OrderedDict[int, None] = OrderedDict()
        for step in steps:
            used = np.unique(groups[order.batch(step, host, hosts)])
            assert len(used) <= 2 * WINDOW // hosts
            for group in used:
                fetches += group not in kept
                kept[group] = None
                kept.move_to_end(group)
                if len(kept) > WINDOW // hosts + 2:
                    kept.popitem(last=False)
    # A lane may begin and end inside a group; the first and last batch may belong to other epochs.
    assert fetches <= GROUPS + 4 * WINDOW


def test_streamed_groups_change_one_by_one() -> None:
    """Even where groups are equally long, so that a fetch at a time keeps up."""
    order, groups = streamed_order(equal=True)
    used = [set(groups[order.batch(step)]) for step in range(order.pairs_per_epoch // 64)]
    new = [len(later - earlier) for earlier, later in pairwise(used)]
    assert max(new) <= 2


def test_streamed_pairs_are_shuffled() -> None:
    """Where in an epoch a pair comes is spread over all of it, and neighbours do not stay together."""
    groups = np.repeat(np.arange(20), 25)
    order = PairOrder(np.ones(500), 100, 4, groups, 5)
    places = np.array([np.argsort(epoch_of(order, epoch)) for epoch in range(200)])
    means = places.mean(axis=0)
    assert np.abs(means - 249.5).max() < 5 * 500 / np.sqrt(12 * 200)
    within = np.array([np.corrcoef(places[:, 0], places[:, other])[0, 1] for other in range(25, 500, 25)])
    assert np.abs(within).max() < 0.3
    assert np.mean(np.abs(places[:, 0] - places[:, 1]) == 1) < 0.2


def test_a_late_step_costs_what_an_early_one_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    worked = 0

    def counting(positions: np.ndarray, size: int, keys: np.ndarray) -> np.ndarray:
        nonlocal worked
        worked += len(positions)
        return permute(positions, size, keys)

    monkeypatch.setattr(order_module, "permute", counting)
    for groups, most in ((None, 64), (np.arange(10_000) // 100, 64 + 2 * 100)):
        for step in (0, 1_000_000):
            worked = 0
            PairOrder(np.ones(10_000), 64, 7, groups).batch(step)
            assert 64 <= worked <= most


def test_the_streamed_order_is_frozen() -> None:
    order = PairOrder(np.arange(1.0, 101), 8, 3, np.arange(100) // 9, 4)
    assert order.batch(12_345).tolist() == [77, 74, 86, 82, 98, 97, 54, 61]


def test_pair_weights() -> None:
    interactions = {
        "clicks": np.array([0, 1, 16, 0], np.int32),
        "purchases": np.array([0, 0, 0, 2], np.int32),
        "last_day": np.array([-1, -1, -1, -1], np.int32),
    }
    assert pair_weights(interactions, 0.5, 8.0).tolist() == [0, 1, 4, 4]
    assert pair_weights(interactions, 0.0, 8.0).tolist() == [0, 1, 1, 1]
    assert pair_weights(interactions, 0.5, 8.0, 30.0).tolist() == [0, 1, 4, 4]
    with pytest.raises(DataError, match="popularity_power=-1"):
        pair_weights(interactions, -1, 1.0)


def test_old_pairs_weigh_less() -> None:
    interactions = {
        "clicks": np.array([1, 1, 1, 16, 1], np.int32),
        "purchases": np.zeros(5, np.int32),
        "last_day": np.array([100, 70, 40, 100, -1], np.int32),
    }
    assert pair_weights(interactions, 0.5, 1.0, 30.0).tolist() == [1, 0.5, 0.25, 4, 0.25]
    assert pair_weights(interactions, 0.5, 1.0).tolist() == [1, 1, 1, 4, 1]
    for half_life in (0, -1, np.nan):
        with pytest.raises(DataError, match="recency_half_life="):
            pair_weights(interactions, 0.5, 1.0, half_life)


@given(weights=weights_strategy, count=st.integers(1, 50), share=st.floats(0, 0.99))
def test_cold_products_get_their_share(weights: list[float], count: int, share: float) -> None:
    both = with_cold(np.array(weights), count, share)
    assert both[: len(weights)].tolist() == weights
    cold = both[len(weights) :]
    assert len(cold) == count
    assert cold.min() == cold.max()
    assert cold.sum() == pytest.approx(share * both.sum())


def test_cold_products_are_drawn() -> None:
    order = PairOrder(with_cold(np.arange(900.0), 100, 0.2), 50, seed=0)
    counts = np.bincount(epoch_of(order, 0), minlength=1000)
    assert counts[900:].tolist() == [2] * 100
    assert counts[900:].sum() == 0.2 * counts.sum()


def test_with_cold_refuses_and_leaves_alone() -> None:
    assert with_cold(np.array([1.0, 2.0]), 0, 0.5).tolist() == [1, 2]
    for share in (-0.1, 1.0, np.nan):
        with pytest.raises(DataError, match="cold_share="):
            with_cold(np.ones(2), 3, share)


@given(seed=st.integers(0, 2**31), share=st.sampled_from([0.0, 0.3, 1.0]))
def test_swapped_queries_are_those_of_the_same_product(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    products = np.sort(rng.integers(0, 6, 15))
    weights = rng.random(15) * (rng.random(15) < 0.8)
    expected = np.zeros(15)
    for pair in np.flatnonzero(weights):
        others = [n for n in np.flatnonzero(weights) if products[n] == products[pair] and n != pair]
        expected[pair] += weights[pair] * (1 - share if others else 1)
        for other in others:
            expected[other] += weights[pair] * share / len(others)
    found = with_swaps(weights, products, share)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_allclose(np.bincount(products, found), np.bincount(products, weights), atol=1e-12)


def test_swaps_refuse_shares_that_are_none() -> None:
    for share in (-0.1, 1.1, np.nan):
        with pytest.raises(DataError, match="query_swap="):
            with_swaps(np.ones(2), np.zeros(2, int), share)


def test_order_refuses_what_it_cannot_draw() -> None:
    for weights in ([], [0.0, 0.0], [1.0, np.nan], [1.0, -1.0]):
        with pytest.raises(DataError, match="cannot draw training pairs"):
            PairOrder(np.array(weights), 4, seed=0)
    with pytest.raises(DataError, match="batch_size=0"):
        PairOrder(np.ones(3), 0, seed=0)
    with pytest.raises(DataError, match="batch_size=10 cannot be shared evenly by 4 hosts"):
        PairOrder(np.ones(3), 10, seed=0).batch(0, 0, 4)
    with pytest.raises(DataError, match="window=0"):
        PairOrder(np.ones(3), 4, 0, np.arange(3), 0)
    with pytest.raises(ValueError, match="ascending"):
        PairOrder(np.ones(3), 4, 0, np.array([0, 2, 1]))
