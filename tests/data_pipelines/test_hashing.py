"""Hashes of keys are frozen, unrelated, and evenly spread."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.hashing import hash_keys, mix, uniform


def test_mix_is_the_finaliser_of_splitmix64() -> None:
    """The first numbers that the published generator gives for seed 1234567."""
    states = np.uint64(1234567) + np.uint64(0x9E3779B97F4A7C15) * np.arange(1, 4, dtype=np.uint64)
    assert mix(states).tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(keys=st.lists(st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 2), min_size=2, max_size=20, unique=True))
def test_tuples_of_keys_hash_apart_and_alike_alone(keys: list[tuple[int, int]]) -> None:
    left, right = np.array(keys, np.int64).T
    hashes = hash_keys(left, right)
    assert len(set(hashes.tolist())) == len(keys)
    assert [int(hash_keys(*key)[0]) for key in np.array(keys, np.int64)] == hashes.tolist()


def test_keys_broadcast_and_their_order_matters() -> None:
    grid = hash_keys(np.arange(3)[:, None], np.arange(4))
    assert grid.shape == (3, 4)
    assert len(np.unique(grid)) == 12
    assert hash_keys(0) != 0


def test_numbers_are_uniform_along_every_key() -> None:
    for numbers in (uniform(hash_keys(np.arange(100_000), 7)), uniform(hash_keys(7, np.arange(100_000)))):
        assert numbers.min() >= 0
        assert numbers.max() < 1
        counts = np.histogram(numbers, 100, (0, 1))[0]
        assert ((counts - 1000) ** 2 / 1000).sum() < 99 + 5 * np.sqrt(2 * 99)
        assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.02
