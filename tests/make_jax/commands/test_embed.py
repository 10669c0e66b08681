"""Embedding a catalogue: what is written of several pictures, and what a model of one modality leaves out."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipelines.input import catalogue_batches
from data_pipelines.prepared import open_data
from data_pipelines.side_ids import SideColumns
from data_pipelines.tokenizer import load_tokenizer
from experiments import tiny
from make_jax.commands.embed import embed_products
from make_jax.commands.feeding import batch_shape
from make_jax.model import build_model
from make_jax.overrides import apply_overrides
from make_jax.retrieval.embeddings import Without, read_embeddings
from make_jax.retrieval.encode import Encoder
from make_jax.run import finish_run, open_run, start_run


def untrained(path: Path, data: Path, *overrides: str) -> Path:
    """A run with random parameters."""
    tokenizer = load_tokenizer(data / "tokenizer")
    config = apply_overrides(tiny.get_config(), [f"model.vocab_size={tokenizer.vocab_size}", *overrides])
    shapes, rng = jax.eval_shape(build_model(config).init, jax.random.key(0)), np.random.default_rng(0)
    start_run(path, config, data / "tokenizer", [str(data)], "f")
    finish_run(path, jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 4, shapes), {})
    return path


@pytest.fixture
def products(tiny_tables, tmp_path: Path) -> Path:
    """Products with three, one and no pictures, and one without a title."""
    file = min(tiny_tables.root.glob("products-*.parquet"))
    pictures = [row for row in pq.read_table(file)["image"].to_pylist() if row][:3]
    rows = {
        "product_id": ["three", "one", "none", "untitled"],
        "title": ["red dress", "blue shoe", "a phone", None],
        "image": pa.array([pictures, pictures[:1], None, pictures[1:2]], pa.list_(pa.binary())),
    }
    pq.write_table(pa.table(rows), tmp_path / "products.parquet")
    return tmp_path / "products.parquet"


def test_each_picture_has_its_weight(tiny_data: Path, products: Path, tmp_path: Path) -> None:
    run = untrained(tmp_path / "run", tiny_data, "model.image.max_images=3")
    assert embed_products(run, [str(products)], tmp_path / "p.parquet") == 4
    found = read_embeddings(tmp_path / "p.parquet", "products")
    assert found.weight_images is not None
    rows = dict(zip(found.ids, found.weight_images, strict=True))
    assert (rows["three"] > 0).all()
    assert rows["three"].sum() == pytest.approx(1)
    assert rows["three"].std() > 1e-5
    assert rows["one"].tolist() == rows["untitled"].tolist() == [1, 0, 0]
    assert rows["none"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("without", [None, "images", "titles"])
def test_vectors_with_ids_are_those_of_training(
    tiny_data: Path, tiny_tables, tmp_path: Path, without: Without | None
) -> None:
    """What embed makes of tables, ids and categories among it, is what training makes of the prepared data."""
    settings = ("model.side.columns=category,product_id", "model.side.buckets=64")
    run = open_run(untrained(tmp_path / "run", tiny_data, *settings))
    count = embed_products(run.path, [tiny_tables.products], tmp_path / "p.parquet", without=without)
    found = read_embeddings(tmp_path / "p.parquet", "products")
    data, encoder = open_data(tiny_data), Encoder(build_model(run.experiment))
    with catalogue_batches(data, batch_shape(run.experiment), batch_size=64) as batches:
        trained = encoder.all_products(run.params, (_hidden(batch, without) for batch in batches))
    seen = trained.weights.any(axis=1)
    assert count == seen.sum()
    assert found.ids.tolist() == trained.product_ids[seen].tolist()
    np.testing.assert_allclose(found.vectors, trained.vectors[seen], atol=1e-5)
    for name in ("category", "product_id"):
        bare = {**run.params, "side": {**run.params["side"], name: {"embedding": np.zeros((64, 32), np.float32)}}}
        with catalogue_batches(data, batch_shape(run.experiment), batch_size=64) as batches:
            other = encoder.all_products(bare, (_hidden(batch, without) for batch in batches))
        assert np.abs(other.vectors[seen] - found.vectors).max() > 0.1, name


def _hidden(batch: dict[str, np.ndarray], without: Without | None) -> dict[str, np.ndarray]:
    if without == "images":
        return {**batch, "has_image": np.zeros_like(batch["has_image"])}
    return {**batch, "title_ids": np.zeros_like(batch["title_ids"])} if without == "titles" else batch


def test_a_new_catalogue_has_the_vectors_of_what_is_seen(tiny_data: Path, products: Path, tmp_path: Path) -> None:
    """Ids whose buckets nothing was trained in, and no category at all."""
    run = untrained(tmp_path / "run", tiny_data, "model.side.columns=category,product_id", "model.side.buckets=64")
    opened = open_run(run)
    params = dict(opened.params)
    tables = {name: {"embedding": np.array(table["embedding"])} for name, table in params["side"].items()}
    ids = SideColumns(("product_id",), 64).buckets_of("product_id", ["three", "one", "none", "untitled"])
    tables["product_id"]["embedding"][ids] = 0
    finish_run(run, {**params, "side": tables}, {})
    embed_products(run, [str(products)], tmp_path / "p.parquet")
    plain = untrained(tmp_path / "plain", tiny_data)
    finish_run(plain, {name: part for name, part in params.items() if name != "side"}, {})
    embed_products(plain, [str(products)], tmp_path / "q.parquet")
    ours, theirs = (read_embeddings(tmp_path / f"{name}.parquet", "products") for name in "pq")
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=1e-6)


def test_a_model_of_pictures_leaves_out_what_has_none(
    tiny_data: Path, products: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = ("model.modalities=image", "objectives.query_title=0")
    run = untrained(tmp_path / "run", tiny_data, *alone)
    assert embed_products(run, [str(products)], tmp_path / "p.parquet") == 3
    found = read_embeddings(tmp_path / "p.parquet", "products")
    assert found.ids.tolist() == ["three", "one", "untitled"]
    assert found.weight_image is not None
    assert found.weight_image.tolist() == [1, 1, 1]
    assert found.weight_images is None
    assert "1 products have nothing that this model sees, and are left out" in caplog.text
