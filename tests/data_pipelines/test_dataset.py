"""A prepared directory opens as a TFDS dataset and through `open_data`, and damage to it is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from catalogue_files import COLOURS, picture, product, small_catalogue

from data_pipelines import manifest
from data_pipelines.dataset import PreparedData, open_data, product_features, write_products
from data_pipelines.errors import DataError
from data_pipelines.prepare import prepare
from data_pipelines.tokenizer import load_tokenizer

COUNT = 40


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("catalogue")
    return prepare(**small_catalogue(folder / "in", COUNT), out=folder / "DATA", shard_bytes=5_000, progress=False).out


@pytest.fixture
def copy(prepared: Path, tmp_path: Path) -> Path:
    target = tmp_path / "DATA"
    for path in prepared.rglob("*"):
        if path.is_file():
            destination = target / path.relative_to(prepared)
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(path.read_bytes())
    return target


@pytest.fixture(scope="module")
def data(prepared: Path) -> PreparedData:
    return open_data(prepared)


def test_tfds_opens_it(prepared: Path) -> None:
    builder = tfds.builder_from_directory(prepared)
    assert builder.info.splits["products"].num_examples == COUNT
    assert builder.info.splits["products"].num_shards > 2
    source = builder.as_data_source(split="products")
    for number, record in enumerate(source):
        expected = product(number)
        assert record["product_id"].decode() == expected["product_id"]
        assert record["title"].decode() == expected["title"]
        assert record["category"].decode() == expected["category"]
        assert record["image"] == expected["image"]
    assert number == COUNT - 1


def test_records_come_by_row_in_any_order(data: PreparedData) -> None:
    tokenizer = load_tokenizer(data.tokenizer_path)
    rows = [39, 0, 17, 0]
    for row, record in zip(rows, data.records(rows), strict=True):
        title_ids = record.pop("title_ids")
        assert record == product(row)
        assert title_ids.dtype == np.int32
        np.testing.assert_array_equal(title_ids, tokenizer.encode([record["title"]], 512)[0])
    assert data.records([]) == []


def test_serialized_records_are_tf_examples(data: PreparedData) -> None:
    for row, message in zip((3, 1), data.serialized(np.array([3, 1])), strict=True):
        record = product_features().deserialize_example_np(message)
        assert record["product_id"].decode() == f"p{row}"


def test_products_without_title_image_or_category(tmp_path: Path) -> None:
    bare = {"product_id": "1", "title": "", "category": "", "image": b"", "title_ids": np.zeros(0, np.int32)}
    full = {
        "product_id": "é",
        "title": "红",
        "category": "c",
        "image": picture(),
        "title_ids": np.arange(4, dtype=np.int32),
    }
    assert write_products(tmp_path, [bare, full, bare], max_records_per_shard=2) == 2
    source = tfds.builder_from_directory(tmp_path).as_data_source(split="products")
    assert source[0]["image"] == b""
    assert list(source[0]["title_ids"]) == []
    assert source[1]["title"].decode() == "红"
    assert list(source[1]["title_ids"]) == [0, 1, 2, 3]


def test_tables(data: PreparedData) -> None:
    assert data.num_products == COUNT
    assert data.product_ids.tolist() == [f"p{i}" for i in range(COUNT)]
    assert data.categories.tolist() == [product(i)["category"] for i in range(COUNT)]
    lengths = {len(column) for column in data.interactions.values()}
    assert len(lengths) == 1
    assert all(column.dtype == np.int32 for column in data.interactions.values())
    tokenizer = load_tokenizer(data.tokenizer_path)
    assert len(data.queries) == len(data.query_keys) == len(data.query_ids)
    for query, ids in zip(data.queries, data.query_ids, strict=True):
        np.testing.assert_array_equal(ids, tokenizer.encode([query], 128)[0])
    assert data.query_keys.dtype == np.int32


def test_repeated_clicks_are_added_up_and_equal_queries_share_a_key(data: PreparedData) -> None:
    def clicked(query: str) -> dict[str, int]:
        log = data.interactions
        mask = (log["query_index"] == data.queries.index(query)) & (log["product_index"] == 0)
        assert mask.sum() == 1
        return {name: int(log[name][mask][0]) for name in ("clicks", "purchases", "last_day")}

    assert clicked("red shirt") == {"clicks": 1 + 2, "purchases": 0 + 1, "last_day": 3}
    assert clicked("Red Shirt") == {"clicks": 4, "purchases": 1, "last_day": 9}
    keys = {data.query_keys[data.queries.index(query)] for query in ("red shirt", "Red Shirt", "shirt red")}
    assert len(keys) == 1
    assert len(set(data.query_keys.tolist())) == len(data.queries) - 2


def test_dev(data: PreparedData) -> None:
    dev = data.dev
    assert dev is not None
    assert dev.queries == list(COLOURS)
    assert dev.table.column_names == ["query_id", "query", "novel"]
    assert dev.table["novel"].to_pylist() == [False, False, False, True, True]
    assert dev.qrels["query_index"].tolist() == [i % 5 for i in range(COUNT)]
    assert dev.qrels["product_index"].tolist() == list(range(COUNT))
    assert dev.qrels["relevance"].tolist() == [i % 3 for i in range(COUNT)]
    assert {column.dtype for column in dev.qrels.values()} == {np.dtype(np.int32)}


def refused(path: Path, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        open_data(path)
    for part in parts:
        assert part in str(caught.value)


def test_a_changed_shard_is_named_with_both_checksums(copy: Path) -> None:
    shard = sorted(copy.glob("*array_record*"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    expected = json.loads((copy / "manifest.json").read_text())["files"][shard.name]["sha256"]
    refused(copy, shard.name, expected, manifest.sha256(shard), "prepare` again")


def test_sizes_are_compared_even_where_checksums_would_take_long(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "HASH_ON_OPEN_BYTES", 0)
    shard = sorted(copy.glob("*array_record*"))[0]
    size = shard.stat().st_size
    with shard.open("r+b") as file:
        file.write(b"changed")
    assert open_data(copy).num_products == COUNT
    with shard.open("ab") as file:
        file.write(b"x")
    refused(copy, shard.name, str(size), str(size + 1))


def test_a_missing_file_a_foreign_directory_and_another_version(copy: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", "is not a directory")
    refused(tmp_path, "no manifest.json", "make-jax prepare")
    contents: dict[str, Any] = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps(contents | {"format_version": 99}))
    refused(copy, "99", "prepare` again")
    (copy / "manifest.json").write_text("{")
    refused(copy, "manifest.json cannot be read")
    (copy / "manifest.json").write_text(json.dumps(contents))
    assert open_data(copy).manifest == contents
    (copy / "interactions.parquet").unlink()
    refused(copy, "interactions.parquet is missing")
