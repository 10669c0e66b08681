"""The queries of a product: distinct, most clicked first, cut and padded."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.product_queries import ProductQueries, ProductWords
from data_pipelines.ragged import Ragged, gather_ragged

texts = st.lists(st.lists(st.integers(-1, 5), max_size=3), min_size=10, max_size=10)
rows = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 6), st.integers(0, 3)), max_size=60)


def build(pairs: list[tuple[int, int, int]], query_keys: np.ndarray, width: int) -> ProductQueries:
    columns = np.array(pairs, np.int32).reshape(-1, 3).T
    names = ("query_index", "product_index", "clicks")
    return ProductQueries(dict(zip(names, columns, strict=True)), query_keys, 7, width)


@given(pairs=rows, keys=st.lists(st.integers(0, 4), min_size=10, max_size=10), width=st.integers(1, 6))
def test_against_counting(pairs: list[tuple[int, int, int]], keys: list[int], width: int) -> None:
    found = build(pairs, np.array(keys, np.int32), width)
    clicks: dict[int, Counter[int]] = defaultdict(Counter)
    for query, product, count in pairs:
        if count:
            clicks[product][keys[query]] += count
    table = found[np.arange(7)]
    assert table.dtype == np.int32
    for product in range(7):
        expected = sorted(clicks[product], key=lambda key: (-clicks[product][key], key))[:width]
        assert table[product].tolist() == expected + [-1] * (width - len(expected))
    counts = [len(of_product) for of_product in clicks.values() if of_product]
    assert found.share_truncated == sum(count > width for count in counts) / max(1, len(counts))


@given(pairs=rows, words=texts, width=st.integers(1, 6))
def test_words_against_counting(pairs: list[tuple[int, int, int]], words: list[list[int]], width: int) -> None:
    columns = np.array(pairs, np.int32).reshape(-1, 3).T
    log = dict(zip(("query_index", "product_index", "clicks"), columns, strict=True))
    asked: list[int] = []

    def of_queries(queries: np.ndarray) -> Ragged:
        asked.extend(queries.tolist())
        found = [words[query] for query in queries]
        return Ragged(np.array([word for text in found for word in text], np.int32), np.cumsum([0, *map(len, found)]))

    table = ProductWords(log, of_queries, 7, width)[np.arange(7)]
    assert asked == sorted({query for query, _, count in pairs if count})
    clicks: dict[int, Counter[int]] = defaultdict(Counter)
    for query, product, count in pairs:
        clicks[product].update({word: 0 for word in words[query] if word > 0 and count})
        for word in words[query]:
            if word > 0 and count:
                clicks[product][word] += count
    for product in range(7):
        expected = sorted(clicks[product], key=lambda word: (-clicks[product][word], word))[:width]
        assert table[product].tolist() == expected + [0] * (width - len(expected))


def test_products_may_repeat_and_come_in_any_order() -> None:
    found = build([(0, 2, 1), (1, 5, 1)], np.array([8, 9], np.int32), 2)
    assert found[np.array([5, 2, 5, 0])].tolist() == [[9, -1], [8, -1], [9, -1], [-1, -1]]


def test_gather_ragged_of_nothing() -> None:
    empty = np.zeros(3, np.int64)
    assert gather_ragged(np.zeros(0, np.int32), empty, empty, 2, -1).tolist() == [[-1, -1]] * 3
