"""Texts are cleaned once and for all, split into words, and equal queries have equal keys."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.keywords import clean_text, query_keyword_key, words


def test_clean_text() -> None:
    assert clean_text("\ufeff Cafe\u0301\x00 \x07noir\t\n x ") == "Café noir x"
    assert clean_text("کتاب\u200cها 👩\u200d👩") == "کتاب\u200cها 👩\u200d👩"  # joiners carry meaning


@given(st.text())
def test_clean_text_is_stable(text: str) -> None:
    once = clean_text(text)
    assert clean_text(once) == once
    assert "\n" not in once
    assert once == once.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("T-Shirt, RED!", ["t", "shirt", "red"]),
        ("ﬁne ＡＢＣ Straße", ["fine", "abc", "strasse"]),
        ("红色连衣裙 夏季", ["红色连衣裙", "夏季"]),
        ("लाल कमीज़", ["लाल", "कमीज़"]),
        ("قميص أحمر", ["قميص", "أحمر"]),
        ("iphone_15 4.7", ["iphone", "15", "4", "7"]),
    ],
)
def test_words(text: str, expected: list[str]) -> None:
    assert words(text) == [unicodedata.normalize("NFKC", word) for word in expected]


def test_equal_queries_have_equal_keys() -> None:
    assert query_keyword_key("t-shirt red") == query_keyword_key("Red  T-shirt") == query_keyword_key("red red t shirt")
    assert query_keyword_key("red shirt") != query_keyword_key("red shirts")
    assert query_keyword_key("👗") != query_keyword_key("👟")


@given(st.lists(st.text("abÀß红क", min_size=1, max_size=4), min_size=1, max_size=5), st.randoms())
def test_keys_ignore_order_repetition_and_case(parts: list[str], random: Any) -> None:
    shuffled = [*parts, parts[0]]
    random.shuffle(shuffled)
    assert query_keyword_key(" ".join(parts)) == query_keyword_key("  ".join(shuffled))
