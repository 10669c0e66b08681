"""Metrics of groups of products against a plain reference, and that matching makes groups comparable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.retrieval.groups import GroupTable, Split, group_depth, group_tables
from make_jax.retrieval.metrics import Qrels, query_metrics

KS = (2, 5)


def judged(grades: np.ndarray) -> tuple[Qrels, list[str], list[str]]:
    queries, products = np.indices(grades.shape)
    query_ids, ids = [f"q{i}" for i in range(len(grades))], [f"p{i}" for i in range(grades.shape[1])]
    qrels = Qrels.from_arrays(
        [query_ids[i] for i in queries.ravel()], [ids[i] for i in products.ravel()], grades.ravel()
    )
    return qrels, query_ids, ids


def tables(ranking: np.ndarray, grades: np.ndarray, side: np.ndarray) -> list[GroupTable]:
    """`side` is int[Nq, N]; judgements are in the order of rows and columns, as Qrels keeps them."""
    qrels, query_ids, ids = judged(grades)
    split = Split("split", ("first", "second"), side.ravel().astype(np.int8))
    return group_tables(ranking, ids, qrels, query_ids, split, KS)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1))
def test_equals_rankings_with_the_others_taken_out(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grades, side = rng.integers(0, 3, (4, 20)), rng.integers(-1, 2, (4, 20))
    grades[0, :2], side[0, :2] = 2, [0, 1]
    ranking = np.stack([rng.permutation(20) for _ in range(4)])
    for number, table in enumerate(tables(ranking, grades, side)):
        for q in range(4):
            mine = (grades[q] < 2) | (side[q] == number)
            if not ((grades[q] == 2) & mine).any():
                assert np.isnan(table.table.values["r_precision"][q])
                continue
            ranked = [grades[q, row] for row in ranking[q] if mine[row]]
            expected = query_metrics(np.array(ranked), grades[q][mine], KS, 2)
            assert {name: v[q] for name, v in table.table.values.items()} == pytest.approx(expected)
        assert table.pairs == np.sum((grades == 2) & (side == number))


def test_the_depth_is_enough() -> None:
    rng = np.random.default_rng(0)
    grades, side = rng.integers(0, 3, (5, 60)), rng.integers(0, 2, (5, 60))
    ranking = np.stack([rng.permutation(60) for _ in range(5)])
    qrels, query_ids, _ = judged(grades)
    depth = group_depth(qrels, query_ids, KS)
    assert depth == (grades == 2).sum(axis=1).max() + 5
    for whole, cut in zip(tables(ranking, grades, side), tables(ranking[:, :depth], grades, side), strict=True):
        for name in set(whole.table.values) - {"mrr"}:
            np.testing.assert_array_equal(whole.table.values[name], cut.table.values[name])
        np.testing.assert_array_equal(whole.matched, cut.matched)


def test_a_split_with_one_side_only_says_nothing() -> None:
    assert tables(np.array([[0, 1, 2, 3, 4, 5, 6]]), np.array([[2, 2, 0, 0, 0, 0, 0]]), np.zeros((1, 7))) == []


def test_matched_by_hand() -> None:
    # One product of the first group, at place 2 behind a product that is not relevant; two of the second, at 1 and 4.
    ranking = np.array([[1, 4, 0, 5, 2, 3, 6]])
    grades, side = np.array([[2, 2, 2, 0, 0, 0, 0]]), np.array([[0, 1, 1, -1, -1, -1, -1]])
    first, second = tables(ranking, grades, side)
    assert first.matched.tolist() == [0]
    assert 0 < second.matched[0] < 1  # the mean of draws of product 1, found at once, and product 2, not found
    assert first.table.values["r_precision"].tolist() == [0]
    assert second.table.values["r_precision"].tolist() == [0.5]
    assert (first.queries, first.matched_queries, first.matched_mean) == (1, 1, 0)


def test_groups_that_are_ranked_alike_are_alike_where_matched() -> None:
    """A tenth of the relevant products, chosen at random, looks worse by plain R-precision, and does not matched."""
    rng = np.random.default_rng(0)
    grades = np.zeros((200, 400), int)
    grades[:, :60] = 2
    scores = rng.normal(size=grades.shape) + 1.5 * (grades == 2)
    side = np.where(rng.random(grades.shape) < 0.1, 0, 1)
    few, many = tables(np.argsort(-scores, axis=1), grades, side)
    plain = [table.table.means()["r_precision"] for table in (few, many)]
    assert plain[0] < plain[1] - 0.1
    assert few.matched_mean == pytest.approx(many.matched_mean, abs=0.03)
