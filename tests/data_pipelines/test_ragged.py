"""Ragged arrays against lists of lists."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.ragged import Ragged, gather_ragged, pad_tokens

sequences = st.lists(st.lists(st.integers(0, 99), max_size=7), min_size=1, max_size=6)


def ragged(lists: list[list[int]]) -> Ragged:
    splits = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    return Ragged(np.array([token for part in lists for token in part], np.int32), splits)


@settings(deadline=None)
@given(sequences, st.data())
def test_rows_are_taken_in_any_order_and_more_than_once(lists: list[list[int]], data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=9))
    taken = ragged(lists).take(np.array(rows, np.int64))
    assert taken.lengths().tolist() == [len(lists[row]) for row in rows]
    assert taken.values.tolist() == [token for row in rows for token in lists[row]]
    assert taken.values.dtype == np.int32


@settings(deadline=None)
@given(sequences, st.integers(3, 8), st.sampled_from([0, 1, -1]))
def test_padding_fills_short_rows_and_cuts_long_ones_before_their_last(
    lists: list[list[int]], width: int, padding: int
) -> None:
    cut = [tokens if len(tokens) <= width else [*tokens[: width - 1], tokens[-1]] for tokens in lists]
    padded = pad_tokens(ragged(lists), width, padding)
    assert padded.dtype == np.int32
    assert padded.tolist() == [tokens + [padding] * (width - len(tokens)) for tokens in cut]


@settings(deadline=None)
@given(sequences, st.integers(1, 8))
def test_slices_may_be_any_parts_of_the_values(lists: list[list[int]], width: int) -> None:
    values = ragged(lists).values
    starts = np.arange(len(values) + 1)
    ends = np.minimum(starts + 3, len(values))
    rows = gather_ragged(values, starts, ends, width, -1)
    expected = [values[start : min(start + width, end)].tolist() for start, end in zip(starts, ends, strict=True)]
    assert rows.tolist() == [part + [-1] * (width - len(part)) for part in expected]


def test_nothing_is_taken_from_nothing() -> None:
    none = Ragged(np.zeros(0, np.int32), np.zeros(1, np.int64)).take(np.zeros(0, np.int64))
    assert (none.values.tolist(), none.splits.tolist()) == ([], [0])
    assert pad_tokens(none, 4, 0).shape == (0, 4)
