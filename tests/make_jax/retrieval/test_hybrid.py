"""Hybrid search: both ways to join rankings, by hand, and a weight that is never learned from what it is judged by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.errors import UserError
from make_jax.retrieval import hybrid_weight
from make_jax.retrieval.bm25 import build_bm25, load_bm25
from make_jax.retrieval.hybrid import RRF_K, Pool, Ranking, by_ranks, by_weight, pools
from make_jax.retrieval.hybrid_weight import GRID, HybridWeight, best_weight, cross_fitted, gains, read_weight
from make_jax.retrieval.metrics import Qrels, evaluate_rankings


def ranking(*rows: list[int]) -> Ranking:
    width = max(map(len, rows))
    padded = np.array([row + [-1] * (width - len(row)) for row in rows], np.int32)
    return Ranking(np.where(padded >= 0, 1.0, 0.0).astype(np.float32), padded)


def test_reciprocal_ranks_by_hand() -> None:
    joined = by_ranks(ranking([0, 1, 2], [5, 4, 3]), ranking([2, 7, -1], []), depth=4)
    assert joined.rows.tolist() == [[2, 0, 1, 7], [5, 4, 3, -1]]  # of 1 and 7, both second, the vectors' comes first
    expected = [1 / (RRF_K + 3) + 1 / (RRF_K + 1), 1 / (RRF_K + 1), 1 / (RRF_K + 2), 1 / (RRF_K + 2)]
    np.testing.assert_allclose(joined.scores[0], expected, rtol=1e-6)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_a_ranking_joined_with_itself_stays(seed: int) -> None:
    rows = np.random.default_rng(seed).permutation(9).tolist()
    assert by_ranks(ranking(rows), ranking(rows), 9).rows[0].tolist() == rows


@pytest.fixture(scope="module")
def pooled(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    folder = tmp_path_factory.mktemp("hybrid") / "bm25"
    build_bm25([(str(i), [text]) for i, text in enumerate(["red dress", "red", "blue", "shoe"])], folder, ["title"])
    catalogue = np.array([[1, 0], [0.6, 0.8], [0, 1], [-1, 0]], np.float32)
    query = np.array([[1, 0]], np.float32)
    return next(pools(query, catalogue, ["red"], load_bm25(folder), ranking([0, 3]), ranking([1, 0])))


def test_a_pool_has_both_scores_of_every_candidate(pooled: Pool) -> None:
    assert pooled.rows.tolist() == [0, 1, 3]
    np.testing.assert_allclose(pooled.cosine, [1, 0.8, 0], atol=1e-6)
    assert pooled.bm25[1] == 1  # the shorter title
    assert 0 < pooled.bm25[0] < 1
    assert pooled.bm25[2] == 0


def test_weights_at_the_ends_are_the_rankings_themselves(pooled: Pool) -> None:
    joined = by_weight([pooled, pooled, pooled], np.array([1.0, 0.0, 0.5]), depth=2)
    assert joined.rows[:2].tolist() == [[0, 1], [1, 0]]
    half = 0.5 * pooled.cosine + 0.5 * pooled.bm25
    np.testing.assert_allclose(joined.scores[2], np.sort(half)[::-1][:2], rtol=1e-6)


def random_pools(rng: np.random.Generator, queries: int, products: int) -> tuple[list[Pool], Qrels, list[str]]:
    rows = np.arange(products, dtype=np.int32)
    found = [Pool(rows, *rng.random((2, products)).round(1).astype(np.float32)) for _ in range(queries)]
    grades = rng.integers(0, 3, (queries, products))
    ids = [f"q{i}" for i in range(queries)]
    q, p = (axis.ravel() for axis in np.indices(grades.shape))
    return found, Qrels.from_arrays([ids[i] for i in q], [f"p{i}" for i in p], grades.ravel()), ids


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
def test_gains_are_the_metric_of_the_joined_ranking(seed: int, products: int) -> None:
    found, qrels, query_ids = random_pools(np.random.default_rng(seed), 3, products)
    catalogue = np.array([f"p{i}" for i in range(products)], object)
    table = gains(found, catalogue, qrels, query_ids)
    for g in (0, 20, len(GRID) - 1):
        joined = by_weight(found, np.full(3, GRID[g]), products)
        if (qrels.relevance > 0).any():
            metrics = evaluate_rankings(joined.rows, catalogue, qrels, query_ids, relevant_at=1)
            np.testing.assert_allclose(table[g], metrics.values["ndcg@10"], equal_nan=True)


def test_the_best_weight_is_the_middle_of_the_best() -> None:
    table = np.zeros((len(GRID), 3))
    table[10:13, 0] = 1
    table[:, 2] = np.nan
    assert best_weight(table) == GRID[11]
    with pytest.raises(UserError, match="no judged query is left"):
        best_weight(table[:, 2:])


def test_no_query_has_a_part_in_its_own_weight() -> None:
    texts = [f"word{i} shirt" for i in range(40)]
    rng = np.random.default_rng(0)
    table = rng.random((len(GRID), 40))
    weights = cross_fitted(table, texts)
    for i in (0, 17, 39):
        other = table.copy()
        other[:, i] = rng.random(len(GRID)) * 100
        assert cross_fitted(other, texts)[i] == weights[i]
    equal = cross_fitted(table, [*texts[:-1], "SHIRT word0"])
    assert equal[39] == equal[0]


def test_one_query_is_too_few_to_learn_from() -> None:
    with pytest.raises(UserError, match="give more"):
        cross_fitted(np.ones((len(GRID), 1)), ["red"])


def test_a_weight_file_knows_its_model_and_its_queries(tmp_path: Path) -> None:
    path = tmp_path / "hybrid.json"
    written = HybridWeight(0.7, 0.5, 0.3, 0.4, "f" * 64, hybrid_weight.hashes(["1"], ["red shirt"]))
    path.write_text(written.to_json())
    read = read_weight(path)
    assert read == written
    read.check_model("f" * 64, path)
    read.check_queries(["2", "1"], ["red shirt", "blue shirt"], path)
    with pytest.raises(UserError, match="learned for model ffffffffffff, this is model 000"):
        read.check_model("0" * 64, path)
    with pytest.raises(UserError, match=r"1 of these 2 queries, as 'red shirt'"):
        read.check_queries(["1", "2"], ["red shirt", "x"], path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"kind": "make_jax-hybrid", "format_version": 1}'])
def test_other_files_are_no_weight(tmp_path: Path, content: str) -> None:
    (tmp_path / "w.json").write_text(content)
    with pytest.raises(UserError, match=r"w\.json cannot be read as a hybrid weight"):
        read_weight(tmp_path / "w.json")
