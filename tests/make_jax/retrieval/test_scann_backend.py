"""Each trap of ScaNN has a test here or, where it shows at the index, in test_index.py."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from make_jax.errors import UserError
from make_jax.retrieval import scann_backend
from make_jax.retrieval.exact import exact_top_k
from make_jax.retrieval.scann_backend import Builder, ScannSearcher
from make_jax.retrieval.tuning import SearchParameters, surrogate_queries, tune

pytest.importorskip("scann", reason="ScaNN is to be had for Linux only")


def clustered(count: int, dim: int, clusters: int = 50, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(clusters, dim))[rng.integers(0, clusters, count)]
    vectors = vectors + 0.6 * rng.normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(3000, 32)


@pytest.fixture(scope="module")
def tree(vectors: np.ndarray) -> ScannSearcher:
    return scann_backend.build(vectors, "tree_ah")


def recall(searcher: ScannSearcher, vectors: np.ndarray, queries: np.ndarray, k: int, **effort: int) -> float:
    _, rows = searcher.search(queries, k, **effort)
    _, exact = exact_top_k(queries, vectors, k)
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(rows.tolist(), exact.tolist(), strict=True)]))


@pytest.mark.parametrize(
    ("count", "builder"),
    [(1, "brute_force"), (19_999, "brute_force"), (20_000, "ah"), (99_999, "ah"), (100_000, "tree_ah")],
)
def test_size_chooses_the_builder(count: int, builder: Builder) -> None:
    assert scann_backend.builder_for(count) == builder


@pytest.mark.parametrize("builder", ["brute_force", "ah", "tree_ah"])
def test_finds_what_exact_search_finds(vectors: np.ndarray, builder: Builder) -> None:
    searcher = scann_backend.build(vectors, builder)
    queries = surrogate_queries(vectors, seed=1)[:200]
    assert recall(searcher, vectors, queries, 10, reorder=500, leaves_to_search=10**6) > 0.99
    scores, rows = searcher.search(queries, 10, 500, 10**6)
    np.testing.assert_allclose(np.einsum("qe,qke->qk", queries, vectors[rows]), scores, atol=1e-5)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert (scores.dtype, rows.dtype) == (np.float32, np.int32)


def test_more_effort_finds_more(vectors: np.ndarray, tree: ScannSearcher) -> None:
    queries = surrogate_queries(vectors, seed=2)[:300]
    by_leaves = [recall(tree, vectors, queries, 10, reorder=200, leaves_to_search=n) for n in (1, 4, tree.leaves)]
    by_reorder = [recall(tree, vectors, queries, 10, reorder=n, leaves_to_search=tree.leaves) for n in (10, 200)]
    assert by_leaves[0] < by_leaves[1] < by_leaves[2]
    assert by_reorder[0] < by_reorder[1]


def test_phantom_results_become_padding(vectors: np.ndarray, tree: ScannSearcher) -> None:
    """One partition holds fewer than 1,000 products; ScaNN fills up with row 0 and NaN."""
    scores, rows = tree.search(vectors[:5], 1000, 1000, 1)
    assert (rows[:, -1] == -1).all()
    np.testing.assert_array_equal(rows < 0, np.isneginf(scores))
    assert not np.isnan(scores).any()
    for row in rows:
        found = row[row >= 0]
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_k_beyond_the_catalogue_gives_the_catalogue(count: int) -> None:
    vectors = clustered(count, 8)
    scores, rows = scann_backend.build(vectors).search(vectors, 10)
    assert scores.shape == (count, count)
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(count), (count, 1)))


def test_reorder_below_k_still_fills_k(vectors: np.ndarray, tree: ScannSearcher) -> None:
    _, rows = tree.search(vectors[:3], 20, 5, tree.leaves)
    assert (rows >= 0).all()


def test_leaves_never_exceed_the_products() -> None:
    vectors = clustered(40, 8)
    searcher = scann_backend.build(vectors, "tree_ah", leaves=1000)
    assert searcher.leaves == 40
    assert searcher.search(vectors[:2], 3, 40, 10**6)[1].min() >= 0


def test_widths_that_do_not_divide_into_blocks() -> None:
    vectors = clustered(500, 7)
    assert recall(scann_backend.build(vectors, "ah"), vectors, vectors[:50], 5, reorder=200) > 0.95


def test_saved_files_can_be_moved(tmp_path: Path, vectors: np.ndarray, tree: ScannSearcher) -> None:
    (tmp_path / "here").mkdir()
    tree.save(tmp_path / "here")
    shutil.move(tmp_path / "here", tmp_path / "there")
    loaded = scann_backend.load(tmp_path / "there", tree.builder, tree.count, tree.leaves)
    for expected, found in zip(
        tree.search(vectors[:100], 10, 50, 5), loaded.search(vectors[:100], 10, 50, 5), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_no_pickle_is_written_or_loaded(tmp_path: Path, tree: ScannSearcher) -> None:
    tree.save(tmp_path)
    assert not list(tmp_path.glob("*.pkl"))
    (tmp_path / "scann_docids.pkl").write_bytes(b"cos\nabort\n(tR.")
    with pytest.raises(UserError, match=r"scann_docids\.pkl is a pickle"):
        scann_backend.load(tmp_path, tree.builder, tree.count, tree.leaves)


def test_refuses_a_directory_without_scann_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no ScaNN index"):
        scann_backend.load(tmp_path, "ah", 1, 0)


def test_brings_no_tensorflow_along() -> None:
    program = (
        "import sys, numpy as np; from make_jax.retrieval import scann_backend as s; "
        "s.build(np.eye(4, dtype=np.float32)); print('tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_refuses_what_does_not_fit_into_memory() -> None:
    scann_backend.check_memory(vector_bytes=2**30, physical=4 * 2**30)
    with pytest.raises(UserError, match=r"about 4\.0 GiB of memory, this machine has 3\.9 GiB"):
        scann_backend.check_memory(vector_bytes=2**30, physical=int(3.9 * 2**30))


def test_tuning_reaches_the_target_with_little_effort(vectors: np.ndarray, tree: ScannSearcher) -> None:
    queries = surrogate_queries(vectors, seed=3)
    tuning = tune(tree, vectors, queries, target_recall=0.9, k=10, seed=0)
    assert tuning.chosen.recall >= 0.9
    assert tuning.chosen.parameters in [p.parameters for p in tuning.curve]
    effort = tuning.chosen.parameters
    fresh = surrogate_queries(vectors, seed=4)[:500]
    found = recall(tree, vectors, fresh, 10, reorder=effort.reorder, leaves_to_search=effort.leaves_to_search)
    assert found == pytest.approx(tuning.chosen.recall, abs=0.04)
    assert effort.leaves_to_search < tree.leaves
    assert (tuning.queries, tuning.held_out) == (1000, 1000)


def test_tuning_keeps_the_best_where_the_target_is_out_of_reach() -> None:
    vectors = clustered(600, 16)
    searcher = scann_backend.build(vectors, "ah")
    searcher.search = lambda queries, k, reorder, leaves: ScannSearcher.search(searcher, queries, k, k)  # type: ignore
    tuning = tune(searcher, vectors, surrogate_queries(vectors, seed=0), target_recall=1.0, k=10, seed=0)
    assert tuning.chosen.recall < 1
    assert len(tuning.curve) == 8


def test_equal_products_do_not_count_as_misses() -> None:
    vectors = np.tile(clustered(20, 8), (50, 1))
    searcher = scann_backend.build(vectors, "brute_force")
    assert tune(searcher, vectors, vectors[:20], 0.95, k=10, seed=0).chosen.recall == 1


def test_one_query_both_tunes_and_judges(vectors: np.ndarray, tree: ScannSearcher) -> None:
    tuning = tune(tree, vectors, vectors[:1], 0.9, k=10, seed=0)
    assert (tuning.queries, tuning.held_out) == (1, 1)
    assert tuning.chosen.recall >= 0.9


def test_effort_grows_with_k_and_never_shrinks() -> None:
    tuned = SearchParameters(10, reorder=50, leaves_to_search=3)
    assert tuned.scaled_to(25) == SearchParameters(25, reorder=125, leaves_to_search=8)
    assert tuned.scaled_to(1) == SearchParameters(1, reorder=50, leaves_to_search=3)
    assert SearchParameters(10).scaled_to(100) == SearchParameters(100)


def test_surrogate_queries_keep_their_distance(vectors: np.ndarray) -> None:
    queries = surrogate_queries(vectors, seed=0)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, atol=1e-5)
    base = vectors[np.random.default_rng(0).choice(len(vectors), 2000, replace=False)]
    assert np.einsum("ne,ne->n", queries, base).mean() == pytest.approx(0.8, abs=0.02)
