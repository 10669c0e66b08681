"""Prepared data opens through `open_prepared`, local or remote, and damage to it is told."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from catalogue_files import COLOURS, product
from prepared_files import record, write_data

from data_pipelines import manifest
from data_pipelines.dataset import PreparedData, open_prepared
from data_pipelines.errors import DataError
from data_pipelines.host_tensorflow import tf
from data_pipelines.manifest import FORMAT_VERSION
from data_pipelines.mixture import MixedData
from data_pipelines.shards import Storage
from data_pipelines.tokenizer import load_tokenizer

COUNT, PER_SHARD = 40, 7
both = pytest.mark.parametrize("storage", get_args(Storage))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("prepared") / "DATA", COUNT)


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
    return open_prepared(prepared)


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Prepared data in TensorFlow's file system in memory, which no other library can look into."""
    local = write_data(tmp_path_factory.mktemp("remote") / "DATA", COUNT, storage="tfrecord")
    upload(local, "ram://bucket/DATA")
    return "ram://bucket/DATA"


def upload(local: Path, remote: str) -> None:
    for path in local.rglob("*"):
        if path.is_file():
            with tf.io.gfile.GFile(f"{remote}/{path.relative_to(local).as_posix()}", "wb") as file:
                file.write(path.read_bytes())


@both
def test_records_come_by_row_in_any_order(tmp_path: Path, storage: Storage) -> None:
    data = open_prepared(write_data(tmp_path / "DATA", COUNT, storage=storage))
    rows = [39, 0, 17, 0]
    for row, found in zip(rows, data.records(rows), strict=True):
        expected = record(row)
        assert {name: found[name] for name in ("product_id", "title", "category", "images")} == {
            **{name: product(row)[name] for name in ("product_id", "title", "category")},
            "images": expected["images"],
        }
        assert found["title_ids"].dtype == np.int32
        np.testing.assert_array_equal(found["title_ids"], expected["title_ids"])
    assert data.records([]) == []


def test_a_record_that_cannot_be_shown_is_named(copy: Path) -> None:
    data = open_prepared(copy)
    shard = sorted(copy.glob("catalogue-*"))[2]
    shard.unlink()
    assert len(data.records([0, 39])) == 2
    with pytest.raises(DataError) as caught:
        data.records([0, 17])
    for part in (str(copy), "row 17", shard.name, "record 3", "prepare` again"):
        assert part in str(caught.value)


def test_tables(data: PreparedData) -> None:
    assert data.num_products == COUNT
    assert data.product_ids.tolist() == [f"p{i}" for i in range(COUNT)]
    assert data.categories.tolist() == [product(i)["category"] for i in range(COUNT)]
    assert data.title_tokens.tolist() == [4] * COUNT
    assert data.num_images.tolist() == [1 + i % 2 for i in range(COUNT)]
    assert {column.dtype for column in (data.title_tokens, data.num_images, data.query_keys)} == {np.dtype(np.int32)}
    assert (data.max_images, data.region_width, data.storage, data.pad_id) == (2, 0, "array_record", 0)
    for pairs, keys in ((data.interactions, 5), (data.pseudo_pairs, 2)):
        assert len(pairs) == keys
        assert len({len(column) for column in pairs.values()}) == 1
        assert {column.dtype for column in pairs.values()} == {np.dtype(np.int32)}
    assert data.pseudo_pairs["product_index"].tolist() == [35, 36, 37, 38, 39]
    tokenizer = load_tokenizer(data.tokenizer_path)
    ids = data.query_ids
    assert ids.splits.dtype == np.int64
    assert len(data.queries) == len(data.query_keys) == len(ids.splits) - 1
    for number, query in enumerate(data.queries):
        found = ids.values[ids.splits[number] : ids.splits[number + 1]]
        np.testing.assert_array_equal(found, tokenizer.encode([query], 128)[0])


def test_groups_are_the_streamed_shards(data: PreparedData, remote: str) -> None:
    assert data.product_groups is None
    groups = open_prepared(remote).product_groups
    assert groups is not None
    assert groups.tolist() == [row // 7 for row in range(COUNT)]


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


def test_remote_data_is_the_same_data(remote: str, tmp_path: Path) -> None:
    local = open_prepared(write_data(tmp_path / "DATA", COUNT, storage="tfrecord"))
    data = open_prepared(remote + "/")
    assert data.path == remote
    assert data.fingerprint == local.fingerprint
    rows = np.random.default_rng(0).permutation(COUNT)
    assert data.shards.read(rows) == local.shards.read(rows)
    assert data.queries == local.queries
    assert data.product_ids.tolist() == local.product_ids.tolist()
    assert load_tokenizer(data.tokenizer_path).vocab_size == load_tokenizer(local.tokenizer_path).vocab_size
    assert data.dev is not None


def test_shards_of_remote_data_are_not_copied(remote: str) -> None:
    folder = open_prepared(remote).tokenizer_path.parent
    copied = {path.name for path in folder.iterdir()}
    assert {"dataset_info.json", "features.json", "products.parquet"} <= copied
    assert not [name for name in copied if name.startswith("catalogue-")]


def test_remote_data_that_cannot_be_used(remote: str, copy: Path, tmp_path: Path) -> None:
    upload(copy, "ram://bucket/random")
    refused("ram://bucket/random", "ram://bucket/random", "array_record", "mount the bucket", "--storage tfrecord")
    refused("ram://bucket/none", "ram://bucket/none has no manifest.json")
    refused("nowhere://bucket/DATA", "nowhere://bucket/DATA/manifest.json cannot be read", "nowhere", "access")
    local = write_data(tmp_path / "changed", COUNT, storage="tfrecord")
    shard, table = sorted(local.glob("catalogue-*"))[1], local / "interactions.parquet"
    sound = table.read_bytes()
    table.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    upload(local, "ram://bucket/changed")
    refused("ram://bucket/changed", "ram://bucket/changed/interactions.parquet", manifest.sha256(table))
    table.write_bytes(sound)
    shard.write_bytes(shard.read_bytes() + b"x")
    upload(local, "ram://bucket/longer")
    refused("ram://bucket/longer", f"ram://bucket/longer/{shard.name}", str(shard.stat().st_size))
    shard.unlink()
    upload(local, "ram://bucket/fewer")
    refused("ram://bucket/fewer", f"ram://bucket/fewer/{shard.name} is missing")


def refused(path: Path | str, *parts: str) -> None:
    with pytest.raises(DataError) as caught:
        open_prepared(path)
    for part in parts:
        assert part in str(caught.value)


def test_a_shard_of_other_content_is_named_with_both_checksums(copy: Path) -> None:
    """All of it can be read, so it is not damaged but something else."""
    first, second, *_ = sorted(copy.glob("*array_record*"))
    expected = json.loads((copy / "manifest.json").read_text())["files"][first.name]["sha256"]
    shutil.copyfile(second, first)
    refused(copy, first.name, expected, manifest.sha256(second), "prepare` again")


def test_a_damaged_shard_opens_and_says_what_is_lost(copy: Path, caplog: pytest.LogCaptureFixture) -> None:
    shard = sorted(copy.glob("*array_record*"))[1]
    content, picture = bytearray(shard.read_bytes()), record(PER_SHARD + 3)["images"][0][-60:]
    content[content.index(picture) + 30] ^= 4
    shard.write_bytes(content)
    data = open_prepared(copy)
    assert [(gone.row, gone.shard, gone.record) for gone in data.damage] == [(PER_SHARD + 3, shard.name, 3)]
    (message,) = caplog.messages
    assert shard.name in message
    assert manifest.sha256(shard) in message
    assert message.endswith(f"; 1 of its {PER_SHARD} records cannot be read")
    mixed = MixedData([open_prepared(copy), data])
    assert [gone.row for gone in mixed.damage] == [PER_SHARD + 3, COUNT + PER_SHARD + 3]


def test_sizes_are_compared_even_where_checksums_would_take_long(
    copy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(manifest, "HASH_ON_OPEN_BYTES", 0)
    table = copy / "interactions.parquet"
    size = table.stat().st_size
    with table.open("r+b") as file:
        file.write(b"changed")
    assert open_prepared(copy).num_products == COUNT
    with table.open("ab") as file:
        file.write(b"x")
    refused(copy, table.name, str(size), str(size + 1))
    os.truncate(table, size)
    shard = sorted(copy.glob("*array_record*"))[0]
    size = shard.stat().st_size
    os.truncate(shard, size // 2)
    assert [gone.row for gone in open_prepared(copy).damage] == list(range(PER_SHARD))
    assert f"{shard.name} has {size // 2} bytes, the manifest expects {size}" in caplog.messages[-1]
    shard.unlink()
    assert [gone.row for gone in open_prepared(copy).damage] == list(range(PER_SHARD))
    assert f"{shard.name} is missing" in caplog.messages[-1]


def test_a_missing_file_a_foreign_directory_and_another_version(copy: Path, tmp_path: Path) -> None:
    refused(tmp_path / "none", "is not a directory")
    refused(tmp_path, "no manifest.json", "make-jax prepare")
    contents: dict[str, Any] = json.loads((copy / "manifest.json").read_text())
    for other in (1, 99):
        (copy / "manifest.json").write_text(json.dumps(contents | {"format_version": other}))
        refused(copy, f"format {other}", f"format {FORMAT_VERSION}", "prepare` again")
    (copy / "manifest.json").write_text("{")
    refused(copy, "manifest.json cannot be read")
    (copy / "manifest.json").write_bytes(b'"\xff"')
    refused(copy, "manifest.json cannot be read")
    (copy / "manifest.json").write_text(json.dumps(contents))
    assert open_prepared(copy).manifest == contents
    (copy / "interactions.parquet").unlink()
    refused(copy, "interactions.parquet is missing")
