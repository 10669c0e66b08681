from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_pipelines.errors import DataError
from make_jax.errors import UserError
from make_jax.retrieval import index as index_module
from make_jax.retrieval import scann_backend
from make_jax.retrieval.embeddings import Embeddings, EmbeddingWriter
from make_jax.retrieval.exact import exact_top_k
from make_jax.retrieval.index import Index, build_index, load_index
from make_jax.retrieval.tuning import surrogate_queries

pytest.importorskip("scann", reason="ScaNN is to be had for Linux only")

COUNT, DIM = 2500, 16


def clustered(count: int, dim: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(40, dim))[rng.integers(0, 40, count)] + 0.6 * rng.normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_embeddings(path: Path, vectors: np.ndarray, fingerprint: str = "model-1") -> Path:
    text = np.linspace(0, 1, len(vectors), dtype=np.float32)
    with EmbeddingWriter(path, "products", vectors.shape[1], fingerprint) as writer:
        writer.write([f"p{i}" for i in range(len(vectors))], vectors, text, 1 - text)
    return path


def queries_of(vectors: np.ndarray, fingerprint: str = "model-1") -> Embeddings:
    ids = np.array([f"q{i}" for i in range(len(vectors))], object)
    return Embeddings(ids, vectors, None, None, fingerprint, "queries")


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clustered(COUNT, DIM)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    return write_embeddings(tmp_path_factory.mktemp("emb") / "emb.parquet", vectors)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, embeddings: Path) -> Path:
    out = tmp_path_factory.mktemp("index") / "index"
    build_index(embeddings, out)
    return out


@pytest.fixture(scope="module")
def index(built: Path) -> Index:
    return load_index(built)


@pytest.fixture
def copy(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "copy"))


@pytest.fixture
def small_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the test catalogue count as a large one."""
    monkeypatch.setattr(scann_backend, "BRUTE_FORCE_BELOW", 1)
    monkeypatch.setattr(scann_backend, "TREE_FROM", 1)


@pytest.mark.parametrize("exact", [False, True])
def test_search_gives_products_scores_and_weights(index: Index, vectors: np.ndarray, exact: bool) -> None:
    queries = surrogate_queries(vectors, seed=1)[:70]
    result = index.search(queries, 10, exact=exact)
    scores, rows = exact_top_k(queries, vectors, 10)
    np.testing.assert_array_equal(result.rows, rows)
    np.testing.assert_allclose(result.scores, scores, atol=1e-6)
    assert result.product_ids.tolist() == [[f"p{row}" for row in of_query] for of_query in rows]
    np.testing.assert_allclose(result.weight_text, rows / (COUNT - 1), atol=1e-6)
    np.testing.assert_allclose(result.weight_image, 1 - rows / (COUNT - 1), atol=1e-6)
    assert index.weights.shape == (COUNT, 2)


@pytest.mark.parametrize("exact", [False, True])
def test_k_beyond_the_catalogue_gives_the_catalogue(index: Index, vectors: np.ndarray, exact: bool) -> None:
    result = index.search(vectors[:2], COUNT + 5, exact=exact)
    assert result.product_ids.shape == result.scores.shape == (2, COUNT)
    assert set(result.product_ids[0]) == {f"p{i}" for i in range(COUNT)}


@pytest.mark.usefixtures("small_tree")
def test_tree_fills_every_result_list(tmp_path: Path, embeddings: Path, vectors: np.ndarray) -> None:
    summary = build_index(embeddings, tmp_path / "index", target_recall=0.8)
    assert summary.builder == "tree_ah"
    assert summary.parameters.leaves_to_search < summary.leaves
    tree = load_index(tmp_path / "index")
    queries = surrogate_queries(vectors, seed=2)[:400]  # so many that their mean is near that of all
    for k in (1, 10, 300, COUNT):
        result = tree.search(queries, k)
        assert np.isfinite(result.scores).all()
        assert all(len(set(row)) == k for row in result.rows.tolist())
        exact = tree.search(queries, k, exact=True)
        shares = [len(set(a) & set(b)) / k for a, b in zip(result.rows.tolist(), exact.rows.tolist(), strict=True)]
        assert np.mean(shares) > 0.75


@pytest.mark.usefixtures("small_tree")
def test_manifest_tells_how_it_was_tuned(tmp_path: Path, embeddings: Path, vectors: np.ndarray) -> None:
    queries = surrogate_queries(vectors, seed=3)[:300]
    summary = build_index(embeddings, tmp_path / "index", target_recall=0.9, queries=queries_of(queries), k=5)
    manifest = json.loads((tmp_path / "index" / "manifest.json").read_text())
    assert summary.target_reached
    assert summary.recall >= 0.9
    assert "WARNING" not in str(summary)
    assert manifest["kind"] == "make_jax-index"
    assert (manifest["count"], manifest["dim"], manifest["model_fingerprint"]) == (COUNT, DIM, "model-1")
    assert manifest["recall"] == summary.recall
    assert manifest["tuning"]["query_source"] == "300 given queries"
    assert (manifest["tuning"]["queries"], manifest["tuning"]["held_out_queries"]) == (150, 150)
    assert len(manifest["tuning"]["curve"]) == len(summary.tuning.curve) > 5
    chosen = [point for point in manifest["tuning"]["curve"] if point["parameters"] == manifest["parameters"]]
    assert len(chosen) == 1
    assert manifest["parameters"]["k"] == 5
    assert set(manifest["files"]) >= {"ids.parquet", "vectors.npy", "scann/scann_config.pb"}


def test_a_missed_target_is_said_and_the_index_kept(
    tmp_path: Path, embeddings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = scann_backend.ScannSearcher.search

    def blind(self, queries, k, reorder=None, leaves_to_search=None):
        scores, rows = search(self, queries, k, reorder, leaves_to_search)
        scores[:, k // 2 :] = -np.inf
        return scores, rows

    monkeypatch.setattr(scann_backend.ScannSearcher, "search", blind)
    summary = build_index(embeddings, tmp_path / "index")
    assert summary.recall == 0.5
    assert not summary.target_reached
    assert "WARNING: the target recall of 0.95 was not reached, 0.5000 is the best" in str(summary)
    assert load_index(tmp_path / "index").manifest["target_reached"] is False


def test_without_queries_says_what_stood_in(index: Index) -> None:
    assert index.manifest["tuning"]["query_source"].startswith("catalogue vectors with noise (cosine 0.8)")
    assert index.manifest["recall"] == 1


def test_works_without_scann(
    tmp_path: Path, built: Path, embeddings: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scann_backend, "available", lambda: False)
    summary = build_index(embeddings, tmp_path / "index")
    assert (summary.builder, summary.recall) == ("exact", 1)
    assert "exact" in str(summary)
    expected = exact_top_k(vectors[:3], vectors, 4)[1]
    for path in (tmp_path / "index", built):
        np.testing.assert_array_equal(load_index(path).search(vectors[:3], 4).rows, expected)


def test_rerun_replaces_and_foreign_directories_are_refused(tmp_path: Path, embeddings: Path) -> None:
    other = write_embeddings(tmp_path / "other.parquet", clustered(30, DIM), "model-2")
    build_index(embeddings, tmp_path / "index")
    build_index(other, tmp_path / "index")
    assert len(load_index(tmp_path / "index")) == 30
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("precious")
    with pytest.raises(DataError, match=r"not empty and has no manifest\.json of kind 'make_jax-index'"):
        build_index(other, tmp_path / "mine")
    (tmp_path / "index" / "notes").write_text("precious")
    with pytest.raises(DataError, match=r"holds notes, which its manifest\.json does not list"):
        build_index(other, tmp_path / "index")
    assert (tmp_path / "index" / "notes").read_text() == (tmp_path / "mine" / "notes").read_text() == "precious"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index", "mine", "other.parquet"]


def test_full_disk_leaves_nothing(tmp_path: Path, embeddings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(index_module, "write_manifest", full)
    with pytest.raises(OSError, match="No space"):
        build_index(embeddings, tmp_path / "index")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["vectors.npy", "ids.parquet", "scann/scann_config.pb"])
def test_tampered_files_are_named(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[-1] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{name} has sha256 [0-9a-f]{{64}}, .* says [0-9a-f]{{64}}; build it again"):
        load_index(copy)
    (copy / name).write_bytes(content[:-1])
    with pytest.raises(UserError, match=rf"{name} has {len(content) - 1} bytes, .* says {len(content)}"):
        load_index(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing"):
        load_index(copy)


def test_added_files_are_refused(copy: Path) -> None:
    (copy / "scann" / "scann_docids.pkl").write_bytes(b"")
    with pytest.raises(UserError, match=r"scann_docids\.pkl does not belong"):
        load_index(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format version 99, this program reads 1"),
        ({"kind": "make_jax-data"}, "describes 'make_jax-data', expected 'make_jax-index'"),
    ],
)
def test_other_manifests_are_refused(copy: Path, change: dict[str, object], message: str) -> None:
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(UserError, match=message):
        load_index(copy)


def test_unreadable_manifests_are_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not an index"):
        load_index(tmp_path / "nowhere")
    (copy / "manifest.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        load_index(copy)


def test_ids_table_is_complete(built: Path) -> None:
    table = pq.read_table(built / "ids.parquet")
    assert table.column_names == ["row", "product_id", "weight_text", "weight_image"]
    assert table.column("row").to_pylist() == list(range(COUNT))


def test_queries_that_do_not_fit_are_refused(index: Index, vectors: np.ndarray) -> None:
    for k in (0, -3):
        with pytest.raises(UserError, match=f"k is {k}"):
            index.search(vectors[:1], k)
    with pytest.raises(UserError, match=r"shape \(1, 17\), .* width 16"):
        index.search(np.ones((1, 17), np.float32), 5)
    with pytest.raises(UserError, match="query vector 1 has values that are not finite"):
        index.search(np.array([vectors[0], vectors[0] * np.nan]), 5)


def test_another_model_is_refused(index: Index) -> None:
    index.check_model("model-1")
    with pytest.raises(UserError, match=r"made with model model-1, .* model model-2"):
        index.check_model("model-2")


def test_no_queries_give_no_results(index: Index) -> None:
    assert index.search(np.zeros((0, DIM), np.float32), 3).product_ids.shape == (0, 3)


def test_one_product_is_a_catalogue(tmp_path: Path) -> None:
    path = write_embeddings(tmp_path / "emb.parquet", clustered(1, DIM))
    assert build_index(path, tmp_path / "index").recall == 1
    assert load_index(tmp_path / "index").search(clustered(3, DIM), 10).product_ids.tolist() == [["p0"]] * 3


def test_build_refuses_what_cannot_be_indexed(tmp_path: Path, embeddings: Path, vectors: np.ndarray) -> None:
    out = tmp_path / "index"
    with EmbeddingWriter(tmp_path / "empty.parquet", "products", DIM, "m"):
        pass
    with pytest.raises(UserError, match="holds no products"):
        build_index(tmp_path / "empty.parquet", out)
    for target in (0, 1.01, float("nan")):
        with pytest.raises(UserError, match="target recall is"):
            build_index(embeddings, out, target_recall=target)
    with pytest.raises(UserError, match="k is 0"):
        build_index(embeddings, out, k=0)
    for queries in (vectors[:0], np.ones((2, DIM + 1), np.float32)):
        with pytest.raises(UserError, match="query vectors to tune on have shape"):
            build_index(embeddings, out, queries=queries_of(queries))
    with pytest.raises(UserError, match="not finite"):
        build_index(embeddings, out, queries=queries_of(vectors[:2] * np.nan))
    with pytest.raises(UserError, match=r"made by model model-2, the catalogue by model model-1; embed both"):
        build_index(embeddings, out, queries=queries_of(vectors[:2], "model-2"))
    assert not out.exists()


def test_a_nan_in_the_catalogue_is_named(tmp_path: Path, vectors: np.ndarray) -> None:
    """ScaNN would build from it and then find nothing; the writer refuses it, other programs may not."""
    path = write_embeddings(tmp_path / "emb.parquet", vectors[:50])
    table, about = pq.read_table(path), pq.read_metadata(path).metadata[b"make_jax"]
    flat = table.column("vector").combine_chunks().flatten().to_numpy().copy()
    flat[7 * DIM + 3] = np.nan
    bad = type(table.column("vector").chunk(0)).from_arrays(flat, DIM)
    table = table.set_column(1, table.schema.field("vector"), bad).replace_schema_metadata({b"make_jax": about})
    pq.write_table(table, path)
    with pytest.raises(UserError, match=r"the vector of 'p7' \(row 7\) has values that are not finite"):
        build_index(path, tmp_path / "index")


def test_builds_by_size_for_real(tmp_path: Path) -> None:
    """100,000 products: the smallest catalogue that gets a tree without being told to."""
    path = write_embeddings(tmp_path / "emb.parquet", clustered(100_000, 8))
    summary = build_index(path, tmp_path / "index")
    assert (summary.builder, summary.leaves) == ("tree_ah", 316)
    assert summary.target_reached
