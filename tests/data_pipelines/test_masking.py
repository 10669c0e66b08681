"""Whole-word masking: what is masked, how often, and that nothing but the key decides."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.masking import mask_words

PAD, UNK, CLS, SEP, MASK = SPECIAL = range(5)
VOCAB_SIZE = 60


def mask(
    ids: np.ndarray, words: np.ndarray, keys: np.ndarray, share: float = 0.15, **options: Any
) -> tuple[np.ndarray, np.ndarray]:
    return mask_words(
        ids, words, keys, share, **{"mask_id": MASK, "vocab_size": VOCAB_SIZE, "special_ids": SPECIAL, **options}
    )


def row(lengths: list[int], width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """[CLS], words of these lengths, [SEP], padding."""
    ids, words = np.full(width, PAD, np.int32), np.full(width, -1, np.int32)
    total = sum(lengths)
    ids[: total + 2] = [CLS, *np.random.default_rng(seed).integers(5, VOCAB_SIZE, total), SEP]
    words[1 : total + 1] = np.repeat(np.arange(len(lengths)), lengths)
    return ids, words


def rows(count: int, lengths: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The same words under `count` keys."""
    ids, words = row(lengths, sum(lengths) + 4)
    return np.tile(ids, (count, 1)), np.tile(words, (count, 1)), np.stack([np.arange(count), np.full(count, 9)], 1)


lengths_strategy = st.lists(st.integers(1, 4), max_size=8)
keys_strategy = st.tuples(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))


@given(
    batch=st.lists(st.tuples(lengths_strategy, keys_strategy), min_size=1, max_size=5),
    share=st.floats(0.01, 1),
    preferred=st.none() | st.integers(0, 99),
    unknown=st.floats(0, 0.3),
)
def test_words_are_masked_wholly_or_not_at_all(
    batch: list[tuple[list[int], tuple[int, int]]], share: float, preferred: int | None, unknown: float
) -> None:
    ids, words = map(np.stack, zip(*(row(lengths, 40, seed) for seed, (lengths, _) in enumerate(batch)), strict=True))
    rng = np.random.default_rng(preferred)
    ids[(words >= 0) & (rng.random(ids.shape) < unknown)] = UNK
    prefer = None if preferred is None else rng.random(ids.shape) < 0.5
    keys = np.array([key for _, key in batch], np.int64)
    masked, targets = mask(ids, words, keys, share, prefer=prefer)
    assert masked.dtype == targets.dtype == np.int32
    chosen = targets >= 0
    np.testing.assert_array_equal(targets[chosen], ids[chosen])
    np.testing.assert_array_equal(masked[~chosen], ids[~chosen])
    assert not chosen[words < 0].any()
    assert set(masked[chosen].tolist()) <= {MASK, *range(5, VOCAB_SIZE)}
    for row_ids, row_words, row_masked, row_chosen in zip(ids, words, masked, chosen, strict=True):
        hidden = [row_words == word for word in range(row_words.max() + 1)]
        sound = [members for members in hidden if UNK not in row_ids[members]]
        assert row_chosen.any() == bool(sound)
        for members in hidden:
            assert row_chosen[members].all() or not row_chosen[members].any()
            assert not (row_chosen[members].any() and UNK in row_ids[members])
            assert len(set((row_masked[members] == MASK).tolist())) == 1


@given(batch=st.lists(st.tuples(lengths_strategy, keys_strategy), min_size=1, max_size=5), extra=st.integers(0, 9))
def test_a_row_depends_on_itself_alone(batch: list[tuple[list[int], tuple[int, int]]], extra: int) -> None:
    made = [row(lengths, 40, seed) for seed, (lengths, _) in enumerate(batch)]
    ids, words = map(np.stack, zip(*made, strict=True))
    keys = np.array([key for _, key in batch], np.int64)
    together = mask(ids, words, keys, 0.4, prefer=words % 2 == 0)
    for index, (row_ids, row_words) in enumerate(made):
        longer = (
            np.pad(row_ids, (0, extra), constant_values=PAD)[None],
            np.pad(row_words, (0, extra), constant_values=-1)[None],
        )
        alone = mask(*longer, keys[index : index + 1], 0.4, prefer=longer[1] % 2 == 0)
        for one, all_rows in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0, :40], all_rows[index])


def test_rates_are_those_of_bert() -> None:
    """Over long titles, where choosing at least one word adds next to nothing."""
    ids, words, keys = rows(4000, [1, 2, 3, 1] * 12)
    masked, targets = mask(ids, words, keys)
    first = (words >= 0) & np.diff(words, axis=1, prepend=-1).astype(bool)  # one token of each word
    chosen = targets[first].reshape(len(ids), -1) >= 0
    assert abs(chosen.mean() - 0.15) < 0.003
    assert np.abs(chosen.mean(axis=0) - 0.15).max() < 0.03  # no place is special
    fates = masked[first].reshape(len(ids), -1)[chosen]
    truth = ids[first].reshape(len(ids), -1)[chosen]
    assert abs((fates == MASK).mean() - 0.8) < 0.01
    kept = 0.1 + 0.1 / (VOCAB_SIZE - 5)  # some random tokens are the true one
    assert abs((fates == truth).mean() - kept) < 0.01


def test_random_tokens_are_any_but_special_ones() -> None:
    ids, words, keys = rows(20_000, [1])
    special = [0, 3, 4, 30, 59]
    masked, targets = mask(ids, words, keys, special_ids=special, mask_id=3)
    assert (targets[:, 1] == ids[:, 1]).all()  # the only word is always chosen
    replaced = masked[(masked[:, 1] != 3) & (masked[:, 1] != ids[:, 1]), 1]
    assert set(replaced.tolist()) == set(range(VOCAB_SIZE)) - {*special, int(ids[0, 1])}
    assert np.bincount(replaced).max() < 2.5 * len(replaced) / (VOCAB_SIZE - 6)


def test_preferred_words_are_twice_as_likely_at_the_same_share() -> None:
    ids, words, keys = rows(4000, [1] * 40)
    prefer = (words >= 0) & (words < 10)
    chosen = mask(ids, words, keys, prefer=prefer)[1] >= 0
    often, seldom = chosen[prefer].mean(), chosen[(words >= 0) & ~prefer].mean()
    assert abs(often / seldom - 2) < 0.1
    assert abs(chosen[words >= 0].mean() - 0.15) < 0.003
    same = mask(ids, words, keys, prefer=words >= 0)[1]
    np.testing.assert_array_equal(same, mask(ids, words, keys)[1])


def test_keys_decide() -> None:
    ids, words, keys = rows(200, [1] * 30)
    first = mask(ids, words, keys)
    for again, expected in zip(mask(ids, words, keys.copy()), first, strict=True):
        np.testing.assert_array_equal(again, expected)
    for column in (0, 1):
        other = keys.copy()
        other[:, column] += 1000
        assert ((mask(ids, words, other)[1] >= 0) != (first[1] >= 0)).any(axis=1).mean() > 0.95


def test_masking_is_frozen() -> None:
    """Runs that resume under a newer version must see the same words masked."""
    ids, words = row([1, 2, 1, 3, 1], 12)
    masked, targets = mask(ids[None], words[None], np.array([[3, 4]]), 0.5)
    assert (masked[0].tolist(), targets[0].tolist()) == (
        [2, 51, 40, 33, 19, 10, 44, 44, 5, 3, 0, 0],
        [-1, -1, -1, -1, -1, 21, 7, 9, -1, -1, -1, -1],
    )


def test_batches_of_nothing() -> None:
    empty = np.zeros((0, 7), np.int32)
    assert mask(empty, empty, np.zeros((0, 2), np.int64))[0].shape == (0, 7)
    blank = np.full((2, 5), PAD, np.int32)
    masked, targets = mask(blank, np.full((2, 5), -1, np.int32), np.zeros((2, 2), np.int64))
    assert not masked.any()
    assert (targets == -1).all()


def test_clear_errors() -> None:
    ids, words, keys = rows(1, [1])
    for share in (0.0, 1.5, float("nan")):
        with pytest.raises(DataError, match="share of words to mask is"):
            mask(ids, words, keys, share)
    with pytest.raises(DataError, match="no mask token"):
        mask(ids, words, keys, mask_id=None)
