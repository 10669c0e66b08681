"""Queries made of titles: pieces of them, with keywords first, the same on every machine."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.keywords import query_keyword_key, words
from data_pipelines.pseudo_queries import pseudo_queries
from data_pipelines.title_tokens import KeywordSet

NONE = KeywordSet(frozenset())
FASHION = KeywordSet(frozenset({"red", "shirt", "t", "连衣裙", "红色"}))
ALL = 10_000
WORDS = [
    "red",
    "Shirt",
    "T-Shirt",
    "100%",
    "Brandname",
    "für",
    "红色连衣裙夏季新款",
    "红色",
    "鞋",
    "Tシャツ",
    "क़मीज़",
    "-",
    "😀",
]


@given(title=st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join), product_id=st.text(max_size=8))
def test_queries_are_pieces_of_the_title(title: str, product_id: str) -> None:
    queries = pseudo_queries(title, product_id, ALL, FASHION)
    assert bool(queries) == bool(words(title))
    assert len({query_keyword_key(query) for query in queries}) == len(queries)
    spaced = f" {' '.join(words(title))} "
    for query in queries:
        assert words(query) == query.split()
        assert 1 <= len(query.split()) <= 4
        assert query in spaced
    for count in (0, 1, 2):
        assert pseudo_queries(title, product_id, count, FASHION) == queries[:count]


@given(title=st.text())
def test_any_title_with_words_has_queries(title: str) -> None:
    queries = pseudo_queries(title, "p", 2, FASHION)
    assert bool(queries) == bool(words(title))
    assert all(words(query) == query.split() for query in queries)


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Red Shirt", {"red", "shirt", "red shirt"}),
        ("a1 b1 c1 d1 e1", {"a1", "a1 b1", "a1 b1 c1", "a1 b1 c1 d1", "b1", "b1 c1", "b1 c1 d1", "b1 c1 d1 e1"}),
        ("连衣裙", {"连衣裙", "连衣", "衣裙"}),
        ("红色 连衣裙", {"红色 连衣裙", "红色", "连衣裙", "连衣", "衣裙"}),
        ("鞋", {"鞋"}),
        ("Nike鞋", {"nike鞋"}),
        ("一二三四五六七", {"一二三四五六", "二三四五六七", "一二", "六七"}),
    ],
)
def test_which_pieces(title: str, expected: set[str]) -> None:
    assert expected <= set(pseudo_queries(title, "p", ALL, NONE))


@pytest.mark.parametrize("title", ["一二三四五六七", "Red 一二三四五六七"])
def test_long_runs_are_cut(title: str) -> None:
    pieces = pseudo_queries(title, "p", ALL, NONE)
    assert {len(piece) for piece in pieces if piece != "red"} == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("product_id", list("abcdefgh"))
def test_keywords_come_first(product_id: str) -> None:
    first = pseudo_queries("Zaxo 3000 Red Shirt Qwert", product_id, 3, FASHION)
    assert set(first) == {"red", "shirt", "red shirt"}
    assert set(pseudo_queries("夏季红色连衣裙女装", product_id, 3, FASHION)) == {"红色", "连衣裙", "红色连衣裙"}
    assert pseudo_queries("Xyz 100 red", product_id, 1, FASHION) == ["red"]


@pytest.mark.parametrize("product_id", list("abcdefgh"))
def test_compounds_stay_whole(product_id: str) -> None:
    broken = {"t", "zaxo t", "shirt", "shirt xyz"}
    queries = pseudo_queries("Zaxo T-Shirt Xyz", product_id, ALL, FASHION)
    assert queries[0] == "t shirt"
    assert broken == set(queries[-len(broken) :])


def test_products_with_one_title_differ() -> None:
    assert len({tuple(pseudo_queries("one two three four five", str(n), 2, NONE)) for n in range(50)}) > 20


def test_every_machine_chooses_alike() -> None:
    title = "Cobblerz Women's Leather Sandals, 红色连衣裙"
    expected = ["sandals", "色连衣裙"]
    assert pseudo_queries(title, "p-17", 2, NONE) == expected
    code = (
        "from data_pipelines.pseudo_queries import pseudo_queries, KeywordSet\n"
        f"print(pseudo_queries({title!r}, 'p-17', 2, KeywordSet(frozenset())))"
    )
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path), "PYTHONIOENCODING": "utf-8"}
        found = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True, env=environment
        )
        assert found.stdout.strip() == repr(expected)
