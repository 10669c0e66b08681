"""Weights of keywords: shares of clicked pairs, against a count by hand; what they change in queries made of titles."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from data_pipelines.keyword_weights import weigh_keywords
from data_pipelines.pseudo_queries import pseudo_queries
from data_pipelines.title_tokens import KeywordSet

WORDS = KeywordSet(frozenset({"red", "shirt", "men", "rare", "红色"}))
TITLES = ["Red Shirt Men", "Shirt Men Solid", "Never clicked red", "夏季红色新款", ""]
QUERIES = ["red shirt", "shirt", "Shirt, red!", "红色"]


def pairs(*found: tuple[int, int]) -> dict[str, np.ndarray]:
    query, product = np.array(found, np.int32).reshape(-1, 2).T
    return {"query_index": query, "product_index": product}


def test_weights_are_smoothed_shares_of_pairs() -> None:
    found = weigh_keywords(WORDS, TITLES, QUERIES, pairs((0, 0), (1, 0), (1, 1), (2, 0), (3, 3)))
    assert found.words == WORDS.words
    # In the titles of pairs: red 3 times, shirt 4, men 4, 红色 1; of these typed: 2, 4, 0 and 1.
    mean = (7 + 1) / (12 + 2)
    shares = {"red": (2, 3), "shirt": (4, 4), "men": (0, 4), "红色": (1, 1), "rare": (0, 0)}
    expected = {word: (typed + 5 * mean) / (there + 5) for word, (typed, there) in shares.items()}
    assert found.weights == pytest.approx(expected)
    assert all(0 < weight < 1 for weight in found.weights.values())


def test_the_order_of_the_log_does_not_matter() -> None:
    log = [(0, 0), (1, 0), (1, 1), (2, 0), (3, 3)]
    assert weigh_keywords(WORDS, TITLES, QUERIES, pairs(*log)) == weigh_keywords(
        WORDS, TITLES, QUERIES, pairs(*log[::-1])
    )


def test_without_pairs_all_words_are_worth_the_same() -> None:
    assert weigh_keywords(WORDS, TITLES, QUERIES, pairs()) == WORDS
    assert weigh_keywords(WORDS, TITLES, QUERIES, pairs((0, 4))) == WORDS  # its title is empty


def test_likelier_words_are_chosen_in_proportion() -> None:
    words = KeywordSet(frozenset({"red", "men"}), {"red": 0.6, "men": 0.2})
    first = Counter(pseudo_queries("Red xyz Men", str(number), 1, words)[0] for number in range(4000))
    assert set(first) == {"red", "men"}
    assert first["red"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_what_is_no_keyword_still_comes_last() -> None:
    words = KeywordSet(frozenset({"red", "men"}), {"red": 0.6, "men": 0.001})
    for number in range(50):
        assert set(pseudo_queries("Red xyz Men", str(number), 2, words)) == {"red", "men"}
