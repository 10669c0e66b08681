"""Products read by row from shards on disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
from prepared_files import messages, record, write_shards

from data_pipelines.array_record_shards import ArrayRecordShards
from data_pipelines.shards import Shards, Storage
from data_pipelines.stored import read_products
from data_pipelines.tfrecord_shards import TFRecordShards

COUNT, PER_SHARD, LENGTHS = 12, 5, [5, 5, 2]


def prepared(paths: list[Path], storage: Storage) -> SimpleNamespace:
    kind: type[Shards] = ArrayRecordShards if storage == "array_record" else TFRecordShards
    shards = kind(str(paths[0].parent), [path.name for path in paths], LENGTHS)
    return SimpleNamespace(shards=shards, product_ids=np.array([f"p{row}" for row in range(COUNT)], object))


@pytest.mark.parametrize("storage", get_args(Storage))
def test_any_rows_in_any_order(tmp_path: Path, storage: Storage) -> None:
    data = prepared(write_shards(tmp_path, messages(COUNT), PER_SHARD, storage), storage)
    rows = np.array([11, 3, 3, 0, 7])
    products = read_products(data, rows, max_title_tokens=6, pad_id=0)
    expected = [record(row) for row in rows.tolist()]
    assert products.product_ids == [row["product_id"] for row in expected]
    assert products.images == [row["images"] for row in expected]
    assert products.title_ids.tolist() == [[*row["title_ids"], 0, 0] for row in expected]
    assert products.title_words.tolist() == [[*row["title_words"], -1, -1] for row in expected]
    assert products.bad == {}


@pytest.mark.parametrize("storage", get_args(Storage))
def test_products_of_a_lost_shard_keep_their_names(tmp_path: Path, storage: Storage) -> None:
    paths = write_shards(tmp_path, messages(COUNT), PER_SHARD, storage)
    paths[1].unlink()
    data = prepared(paths, storage)
    products = read_products(data, np.array([4, 6, 5, 10, 6]), max_title_tokens=4, pad_id=1)
    assert products.product_ids == ["p4", "p6", "p5", "p10", "p6"]
    assert set(products.bad) == {1, 2, 4}
    assert all("No such file" in reason for reason in products.bad.values())
    assert [bool(images) for images in products.images] == [True, False, False, True, False]
    assert (products.title_ids == 1).all(1).tolist() == [False, True, True, False, True]
