"""Queries that lose a word or change their order: how often, how, and that nothing but the key decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.query_variation import QueryVariation

COUNT = 3000


def keys(count: int = COUNT, seed: int = 3) -> np.ndarray:
    return np.stack([np.full(count, seed), np.arange(count)], axis=1)


def test_words_are_dropped_as_often_as_asked_each_as_likely() -> None:
    found = Counter(QueryVariation(drop=0.3).vary(["red t-shirt men"] * COUNT, keys()))
    assert set(found) == {"red t-shirt men", "t-shirt men", "red men", "red t-shirt"}
    assert found["red t-shirt men"] / COUNT == pytest.approx(0.7, abs=0.03)
    for shorter in ("t-shirt men", "red men", "red t-shirt"):
        assert found[shorter] / COUNT == pytest.approx(0.1, abs=0.02)


def test_words_are_reordered_as_often_as_asked_and_never_as_they_were() -> None:
    found = Counter(QueryVariation(shuffle=0.5).vary(["a b c"] * COUNT, keys()))
    assert len(found) == 6
    assert found["a b c"] / COUNT == pytest.approx(0.5, abs=0.03)
    assert set(QueryVariation(shuffle=1.0).vary(["a b"] * 50, keys(50))) == {"b a"}


def test_what_happens_to_the_one_says_nothing_of_the_other() -> None:
    found = QueryVariation(drop=0.5, shuffle=0.5).vary(["a b c"] * COUNT, keys())
    dropped = [len(text.split()) == 2 for text in found]
    shuffled = [text.split() != sorted(text.split()) for text in found]
    both = np.mean(np.array(dropped) & np.array(shuffled))
    assert both == pytest.approx(0.25, abs=0.03)


@given(
    texts=st.lists(st.text(), max_size=6),
    drop=st.sampled_from([0.0, 0.5, 1.0]),
    shuffle=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 2**31),
)
def test_a_query_keeps_its_words_but_for_one_and_depends_on_its_key_only(
    texts: list[str], drop: float, shuffle: float, seed: int
) -> None:
    variation, all_keys = QueryVariation(drop, shuffle), keys(len(texts), seed)
    found = variation.vary(texts, all_keys)
    assert [variation.vary([text], all_keys[row : row + 1])[0] for row, text in enumerate(texts)] == found
    for before, after in zip(texts, found, strict=True):
        words, left = Counter(before.split()), Counter(after.split())
        assert left <= words
        assert words.total() - left.total() <= (drop > 0 and words.total() > 1)
        assert bool(left) == bool(words)
        if words.total() < 2:
            assert after.split() == before.split()


@pytest.mark.parametrize("changes", [{"drop": -0.1}, {"shuffle": 1.1}, {"drop": float("nan")}])
def test_shares_out_of_bounds_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(DataError, match=f"{next(iter(changes))}="):
        QueryVariation(**changes)
