from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.errors import UserError
from make_jax.retrieval.embeddings import EmbeddingWriter, check_unit_vectors, read_embeddings

DIM = 6


def unit(count: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def write_products(path: Path, names: list[str], vectors: np.ndarray, fingerprint: str = "model-1") -> None:
    text = np.linspace(0, 1, len(names), dtype=np.float32)
    with EmbeddingWriter(path, "products", vectors.shape[1], fingerprint) as writer:
        writer.write(names, vectors, text, 1 - text)


def write_queries(path: Path, count: int) -> None:
    with EmbeddingWriter(path, "queries", DIM, "model-1") as writer:
        writer.write([f"q{i}" for i in range(count)], unit(count))


@settings(deadline=None, max_examples=25)
@given(
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), unique=True, max_size=20),
    dim=st.integers(1, 9),
    batch=st.integers(1, 7),
)
def test_reads_back_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], dim: int, batch: int
) -> None:
    path = tmp_path_factory.mktemp("emb") / "emb.parquet"
    vectors, text = unit(len(names), dim), np.linspace(0, 1, len(names), dtype=np.float32)
    with EmbeddingWriter(path, "products", dim, "model-1") as writer:
        for i in range(0, len(names), batch):
            span = slice(i, i + batch)
            writer.write(names[span], vectors[span], text[span], 1 - text[span])
    found = read_embeddings(path, "products")
    assert found.ids.tolist() == names
    np.testing.assert_array_equal(found.vectors, vectors)
    np.testing.assert_array_equal(found.weight_text, text)
    np.testing.assert_array_equal(found.weight_image, 1 - text)
    assert (found.fingerprint, found.kind) == ("model-1", "products")
    assert found.vectors.dtype == np.float32
    assert found.vectors.shape == (len(names), dim)


def test_weights_of_single_images_come_back(tmp_path: Path) -> None:
    vectors, text = unit(3), np.full(3, 0.25, np.float32)
    single = np.array([[1, 0, 0], [0.5, 0.25, 0.25], [0, 0, 0]], np.float32)
    with EmbeddingWriter(tmp_path / "p.parquet", "products", DIM, "m", images=3) as writer:
        writer.write(["a"], vectors[:1], text[:1], 1 - text[:1], single[:1])
        writer.write(["b", "c"], vectors[1:], text[1:], 1 - text[1:], single[1:])
        with pytest.raises(ValueError, match="there are columns for 3"):
            writer.write(["d"], vectors[:1], text[:1], 1 - text[:1])
    table = pq.read_table(tmp_path / "p.parquet")
    assert table.column_names == ["product_id", "vector", "weight_text", "weight_image", "weight_images"]
    found = read_embeddings(tmp_path / "p.parquet", "products")
    assert found.weight_images is not None
    np.testing.assert_array_equal(found.weight_images, single)
    np.testing.assert_array_equal(found.vectors, vectors)
    write_products(tmp_path / "q.parquet", ["a"], vectors[:1])
    assert read_embeddings(tmp_path / "q.parquet").weight_images is None


def test_file_says_what_it_is(tmp_path: Path) -> None:
    write_queries(tmp_path / "q.parquet", 3)
    about = json.loads(pq.read_metadata(tmp_path / "q.parquet").metadata[b"make_jax"])
    assert about == {"kind": "queries", "dim": DIM, "model_fingerprint": "model-1", "count": 3}
    schema = pq.read_schema(tmp_path / "q.parquet")
    assert json.loads(schema.metadata[b"make_jax"])["model_fingerprint"] == "model-1"
    assert schema.field("vector").type == pa.list_(pa.float32(), DIM)
    found = read_embeddings(tmp_path / "q.parquet")
    assert found.kind == "queries"
    assert found.weight_text is None


def test_reads_the_parts_of_a_folder_in_order(tmp_path: Path) -> None:
    vectors = unit(5)
    write_products(tmp_path / "part-00001.parquet", ["d", "e"], vectors[3:])
    write_products(tmp_path / "part-00000.parquet", ["a", "b", "c"], vectors[:3])
    found = read_embeddings(tmp_path)
    assert found.ids.tolist() == ["a", "b", "c", "d", "e"]
    np.testing.assert_array_equal(found.vectors, vectors)


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_interrupted_writing_leaves_the_old_file(tmp_path: Path, interruption: type[BaseException]) -> None:
    path = tmp_path / "emb.parquet"
    write_products(path, ["old"], unit(1))

    def fail() -> None:
        with EmbeddingWriter(path, "products", DIM, "model-2") as writer:
            writer.write(["new"], unit(1), np.ones(1), np.zeros(1))
            raise interruption

    with pytest.raises(interruption):
        fail()
    assert read_embeddings(path).ids.tolist() == ["old"]
    assert [p.name for p in tmp_path.iterdir()] == ["emb.parquet"]


def test_refuses_what_is_not_parquet_or_not_whole(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("product_id,vector\n")
    write_products(tmp_path / "whole", [f"p{i}" for i in range(50)], unit(50))
    content = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty").write_bytes(b"")
    for name in ("text", "cut", "empty"):
        with pytest.raises(UserError, match=rf"{name} cannot be read as Parquet .*make-jax embed"):
            read_embeddings(tmp_path / name)


def test_refuses_a_damaged_page(tmp_path: Path) -> None:
    path = tmp_path / "emb.parquet"
    write_products(path, [f"p{i}" for i in range(500)], unit(500))
    content = bytearray(path.read_bytes())
    content[4:200] = b"\xff" * 196
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as Parquet"):
        read_embeddings(path)


def test_refuses_absent_files_and_empty_folders(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no embeddings here"):
            read_embeddings(path)


def test_refuses_the_other_kind(tmp_path: Path) -> None:
    write_queries(tmp_path / "q.parquet", 2)
    with pytest.raises(UserError, match="holds queries where products are needed"):
        read_embeddings(tmp_path / "q.parquet", "products")


def test_refuses_parquet_of_others(tmp_path: Path) -> None:
    table = pa.table({"product_id": ["a"], "vector": pa.array([[1.0]], pa.list_(pa.float32(), 1))})
    pq.write_table(table, tmp_path / "plain.parquet")
    with pytest.raises(UserError, match="says nothing of the model"):
        read_embeddings(tmp_path / "plain.parquet")
    about = {"kind": "products", "dim": 1, "model_fingerprint": "m", "count": 1}
    pq.write_table(table.replace_schema_metadata({"make_jax": json.dumps(about)}), tmp_path / "partial.parquet")
    with pytest.raises(UserError, match=r"expected 1 rows of \(.*weight_text float, weight_image float\)"):
        read_embeddings(tmp_path / "partial.parquet")


def test_refuses_empty_cells(tmp_path: Path) -> None:
    about = {"kind": "queries", "dim": 1, "model_fingerprint": "m", "count": 2}
    columns = {"query_id": ["a", None], "vector": pa.array([[1.0], [1.0]], pa.list_(pa.float32(), 1))}
    table = pa.table(columns).replace_schema_metadata({"make_jax": json.dumps(about)})
    pq.write_table(table, tmp_path / "q.parquet")
    with pytest.raises(UserError, match="empty cells"):
        read_embeddings(tmp_path / "q.parquet")


def test_refuses_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    write_products(tmp_path / "part-0.parquet", ["a"], unit(1))
    write_products(tmp_path / "part-1.parquet", ["b"], unit(1), fingerprint="model-2")
    with pytest.raises(UserError, match=r"part-1.*model_fingerprint 'model-2' but part-0.*'model-1'"):
        read_embeddings(tmp_path)
    write_products(tmp_path / "part-1.parquet", ["b"], unit(1, dim=7))
    with pytest.raises(UserError, match=r"part-1.*dim 7 but part-0.* 6"):
        read_embeddings(tmp_path)
    write_products(tmp_path / "part-1.parquet", ["a"], unit(1))
    with pytest.raises(UserError, match="id 'a' occurs twice"):
        read_embeddings(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0, 0.9])
def test_refuses_vectors_that_are_not_unit(tmp_path: Path, value: float) -> None:
    vectors = unit(4)
    vectors[2] = np.eye(DIM)[0] * value if np.isfinite(value) else value
    with pytest.raises(UserError, match=r"the vector of 'c' \(row 2\).*1 of 4"):
        check_unit_vectors(vectors, ["a", "b", "c", "d"], "emb")
    with pytest.raises(UserError, match="'c'"):
        write_products(tmp_path / "emb.parquet", ["a", "b", "c", "d"], vectors)
    assert not list(tmp_path.iterdir())


def test_refuses_batches_that_do_not_fit(tmp_path: Path) -> None:
    ones = np.ones(2, np.float32)
    with EmbeddingWriter(tmp_path / "p.parquet", "products", DIM, "m") as products:
        with pytest.raises(ValueError, match=r"\(2, 7\) for 2 ids of width 6"):
            products.write(["a", "b"], unit(2, dim=7), ones, ones)
        with pytest.raises(ValueError, match="products got 1 columns of weights"):
            products.write(["a", "b"], unit(2), ones)
    with (
        EmbeddingWriter(tmp_path / "q.parquet", "queries", DIM, "m") as queries,
        pytest.raises(ValueError, match="queries got 2"),
    ):
        queries.write(["a", "b"], unit(2), ones, ones)


def test_refuses_to_write_over_a_directory(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory"):
        write_products(tmp_path, ["a"], unit(1))
