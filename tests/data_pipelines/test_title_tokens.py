"""Keywords: which words they are, where titles have them, and which tokens get the mark."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.title_tokens import KeywordSet, TitleTokens, tokenize_titles
from data_pipelines.tokenizer import TextTokenizer
from data_pipelines.tokenizer_training import CLS, SEP, train_tokenizer

TITLES = [
    "Red T-Shirt for Men",
    "Blaue Hose",
    "夏季红色连衣裙女 T恤",
    "iPhone15手机壳",
    "Café 100% Baumwolle",
    "赤いTシャツ",
]


@pytest.fixture(scope="module", params=["wordpiece", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    return train_tokenizer(TITLES * 3, 300, request.param)


def marked(tokenizer: TextTokenizer, title: str, *keywords: str) -> set[str]:
    """The words of a title, as it writes them, whose tokens are marked."""
    (tokens,) = tokenizer.encode_words([title], 64)
    flags = tokenize_titles(tokenizer, [title], KeywordSet(frozenset(keywords)), 64).keywords[0]
    found = {}
    for word, (start, end), flag in zip(tokens.words.tolist(), tokens.spans.tolist(), flags.tolist(), strict=True):
        first = found.setdefault(word, (start, end, flag))
        assert first[2] == flag, "a word is a keyword wholly or not at all"
        found[word] = (first[0], end, flag)
    assert not found[-1][2]
    return {title[start:end].strip() for start, end, flag in found.values() if flag}


@pytest.mark.parametrize(
    ("title", "keywords", "expected"),
    [
        ("RED T-Shirt for Men", ["red", "shirt", "me"], {"RED", "Shirt"}),
        ("Ｒｅｄ Reddish red", ["red"], {"Ｒｅｄ", "red"}),
        # Of two that overlap, the left one.
        ("夏季红色连衣裙女", ["连衣裙", "红色", "季红"], {"季", "红", "连", "衣", "裙"}),
        ("夏季红色连衣裙女", ["红", "红色"], {"红", "色"}),
        ("iPhone15手机壳", ["iphone15", "壳", "phone15手"], {"iPhone15", "壳"}),
        ("男士T恤", ["t恤"], {"T", "恤"}),
        # Tokenizers count the two characters of a composed one as its first.
        ("Cafe\u0301 100% CAFÉ", ["café"], {"Cafe", "CAFÉ"}),
        ("Blaue Hose", [], set()),
    ],
)
def test_marks(tokenizer: TextTokenizer, title: str, keywords: list[str], expected: set[str]) -> None:
    assert marked(tokenizer, title, *keywords) == expected


@given(titles=st.lists(st.text() | st.sampled_from(TITLES), max_size=4), length=st.integers(3, 12))
def test_titles_are_encoded_as_ever(tokenizer: TextTokenizer, titles: list[str], length: int) -> None:
    result = tokenize_titles(tokenizer, titles, KeywordSet(frozenset({"red", "红色"})), length)
    assert isinstance(result, TitleTokens)
    for ids, words, flags, expected in zip(*result, tokenizer.encode(titles, length), strict=True):
        np.testing.assert_array_equal(ids, expected)
        assert ids.dtype == words.dtype == flags.dtype == np.int32
        assert len(ids) == len(words) == len(flags)
        np.testing.assert_array_equal(words == -1, np.isin(ids, [CLS, SEP]))
        assert not flags[words == -1].any()


def test_what_shoppers_use() -> None:
    queries = ["red shirt", "Red Dress", "shirt, RED", "sihrt", "loafers", "gürtel", "GÜRTEL", "😀"]
    clicks = [1, 1, 1, 4, 5, 3, 2, 99]
    assert KeywordSet.from_queries(queries, clicks).words == {"red", "loafers", "gürtel"}
    assert KeywordSet.from_queries([], []).words == frozenset()


def test_the_order_of_queries_does_not_matter() -> None:
    queries, clicks = ["a b", "b c", "c d", "d", "b a"], [1, 1, 1, 4, 3]
    assert KeywordSet.from_queries(queries, clicks) == KeywordSet.from_queries(queries[::-1], clicks[::-1])
