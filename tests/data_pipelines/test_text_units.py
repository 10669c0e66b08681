"""Runs and units of a text: boundaries by hand, and agreement with what counts as a word elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.keywords import words
from data_pipelines.text_units import fold_unit, text_runs


def units(text: str) -> list[list[str]]:
    return [[text[unit.start : unit.end] for unit in run] for run in text_runs(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T-shirt 红色", [["T"], ["-"], ["shirt"], ["红", "色"]]),
        ("iPhone15手机壳", [["iPhone15", "手", "机", "壳"]]),
        ("30℃ ㎏™¼", [["30"], ["℃"], ["㎏™"], ["¼"]]),
        ("100% cotton", [["100"], ["%"], ["cotton"]]),
        ("赤いＴシャツ", [["赤", "い", "Ｔ", "シ", "ャ", "ツ"]]),
        ("ﾊﾞｯｸﾞ", [["ﾊﾞ", "ｯ", "ｸﾞ"]]),
        ("कमीज़ लाल", [["कमीज़"], ["लाल"]]),
        ("น้ำหอม", [["น้ำ", "ห", "อ", "ม"]]),
        ("셔츠 cafe\u0301", [["셔츠"], ["cafe\u0301"]]),
        ("❤\ufe0f red", [["❤\ufe0f"], ["red"]]),
        (" \n\u200b", []),
        ("", []),
    ],
)
def test_boundaries(text: str, expected: list[list[str]]) -> None:
    assert units(text) == expected


@given(st.text())
def test_units_lie_in_order_and_cover_all_but_separators(text: str) -> None:
    spans = [span for run in text_runs(text) for span in run]
    ends = [0, *(end for _, end in spans)]
    assert all(end <= start < stop for end, (start, stop) in zip(ends, spans, strict=False))
    covered = {place for start, end in spans for place in range(start, end)}
    assert not any(text[place].isalnum() for place in set(range(len(text))) - covered)
    assert not any(text[place].isspace() for place in covered)


PIECES = [*"aZß1é-' \t红色シ々กक😀", "ｼﾞ", "น้ำ", "क़", "e\u0301", "❤\ufe0f", "ｷﾞ", "①", "㎏", "㈱", "™"]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join))
def test_runs_are_the_words_of_a_text(text: str) -> None:
    joined = ["".join(fold_unit(unit) for unit in run) for run in units(text)]
    assert " ".join(joined).split() == words(text)
