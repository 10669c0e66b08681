from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.retrieval.exact import exact_top_k


def by_sorting(queries: np.ndarray, catalogue: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries.astype(np.float64) @ catalogue.astype(np.float64).T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, rows, axis=1), rows


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.sampled_from([1, 3, 4, 9]),
    count=st.integers(1, 70),
    k=st.integers(1, 80),
)
def test_equals_sorting_with_many_ties(seed: int, queries: int, count: int, k: int) -> None:
    """Small whole numbers: sums are exact in float32, ties and zeros of both signs are everywhere."""
    rng = np.random.default_rng(seed)
    q = rng.integers(-1, 2, (queries, 4)).astype(np.float32)
    catalogue = rng.integers(-1, 2, (count, 4)).astype(np.float32)
    scores, rows = exact_top_k(q, catalogue, k, query_chunk=4, catalogue_chunk=16)
    expected_scores, expected_rows = by_sorting(q, catalogue, k)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int32


def test_equals_sorting_across_default_chunks() -> None:
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(150, 8)).astype(np.float32)
    catalogue = rng.normal(size=(70_000, 8)).astype(np.float32)
    scores, rows = exact_top_k(queries, catalogue, 50)
    expected_scores, _ = by_sorting(queries, catalogue, 50)
    np.testing.assert_allclose(scores, expected_scores, rtol=1e-5)
    np.testing.assert_allclose(np.einsum("qe,qke->qk", queries, catalogue[rows]), scores, rtol=1e-5)
    assert all(len(set(row)) == 50 for row in rows)


def test_all_scores_negative_do_not_lose_to_padding() -> None:
    queries, catalogue = np.ones((1, 2), np.float32), -np.ones((5, 2), np.float32)
    scores, rows = exact_top_k(queries, catalogue, 9)
    assert rows.tolist() == [[0, 1, 2, 3, 4]]
    assert scores.tolist() == [[-2.0] * 5]


def test_no_queries() -> None:
    scores, rows = exact_top_k(np.zeros((0, 3), np.float32), np.ones((4, 3), np.float32), 2)
    assert scores.shape == rows.shape == (0, 2)


def test_refuses_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="k is 0"):
        exact_top_k(np.ones((1, 3)), np.ones((4, 3)), 0)
    with pytest.raises(ValueError, match=r"3 wide.*4 wide"):
        exact_top_k(np.ones((1, 3)), np.ones((4, 4)), 1)
