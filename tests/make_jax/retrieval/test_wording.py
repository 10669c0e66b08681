from __future__ import annotations

import pytest

from make_jax.retrieval.bm25 import units
from make_jax.retrieval.wording import Phrases, says_all

COLOURS = Phrases(["Blue", "navy blue", "红色", "", "  "])


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ("Navy-Blue shirt", [("navy", "blue")]),
        ("blue navy", [("blue",)]),
        ("bluetooth", []),
        ("红色裙", [("红", "色")]),
        ("blue and navy blue", [("blue",), ("navy", "blue")]),
    ],
)
def test_the_longest_phrases_are_found(query: str, asked: list[tuple[str, ...]]) -> None:
    assert COLOURS.asked(units(query)) == asked


@pytest.mark.parametrize(
    ("title", "says"),
    [("Puma Navy Blue Tee", True), ("Navy tee, blue", False), ("Marinenavy blues", False), ("", False)],
)
def test_a_title_says_a_phrase_as_whole_words(title: str, says: bool) -> None:
    assert says_all(units(title), [("navy", "blue")]) is says


def test_nothing_asked_is_said_and_empty_phrases_do_not_count() -> None:
    assert says_all([], [])
    assert len(COLOURS) == 3
