"""Buckets of ids and categories: the same for good, from prepared data, mixtures, caches and rows alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prepared_files import record, title, word_tokenizer, write_data

from data_pipelines.cache import open_cache
from data_pipelines.cache_writer import write_cache
from data_pipelines.dataset import PreparedData, open_prepared
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, Sampling
from data_pipelines.hard_negatives import HardNegatives
from data_pipelines.input import catalogue_batches, train_batches
from data_pipelines.mixture import MixedData
from data_pipelines.plans import TrainPlans
from data_pipelines.prepared import ProductData
from data_pipelines.shards import Storage
from data_pipelines.side_ids import LEVELS, SideColumns, SideTable
from data_pipelines.stored_feed import row_batches

COUNT, BATCH, BUCKETS = 40, 8, 1000
BOTH = SideColumns(("category", "product_id"), BUCKETS)
SHAPE = BatchShape(8, 6, (10, 8), num_images=2, side=BOTH)
CATEGORIES = ["Apparel > Tops > Shirts", "Apparel", "", "Home > Mugs", "Apparel > Tops"]
CHANGES = {row: {"category": CATEGORIES[row % 5]} for row in range(COUNT)}
NO_CATEGORY = {row: {"category": "", "product_id": f"other-{row}"} for row in range(COUNT)}
Batch = dict[str, np.ndarray]


def expected(product_id: str, category: str, levels: int = LEVELS) -> np.ndarray:
    """Written anew: each level of the path, then the id; int32[2, levels]."""
    names = [name.strip() for name in category.split(">") if name.strip()]
    paths = [" > ".join(names[:depth]) for depth in range(1, len(names) + 1)][:LEVELS]
    found = np.full((2, levels), -1, np.int32)
    for column, values in enumerate((paths, [product_id] if product_id else [])):
        for place, value in enumerate(values):
            found[column, place] = SideColumns(("product_id",), BUCKETS).buckets_of("product_id", [value])[0, 0]
    return found


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[Storage, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {
        storage: write_data(folder / storage, COUNT, 7, storage, CHANGES, word_tokenizer())
        for storage in get_args(Storage)
    }


@pytest.fixture(scope="module")
def data(roots: dict[Storage, Path]) -> PreparedData:
    return open_prepared(roots["array_record"])


def catalogue(data: ProductData, shape: BatchShape = SHAPE, **rows: Any) -> list[Batch]:
    with catalogue_batches(data, shape, batch_size=12, **rows) as batches:
        return list(batches)


def train(data: ProductData, negatives: HardNegatives | None = None, host: int = 0, hosts: int = 1) -> list[Batch]:
    plans = TrainPlans(data, Sampling(BATCH, seed=2, cold_share=0.2), SHAPE, host, hosts, hard_negatives=negatives)
    with train_batches(data, plans, num_steps=4) as batches:
        return list(batches)


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, array in mine.items():
            assert array.dtype == other[name].dtype, name
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_the_hash_never_changes() -> None:
    # Trained tables are addressed by it: another hash would give every product of a stored model another's vector.
    found = SideColumns(("product_id",), 2**31 - 1).buckets_of("product_id", ["40055", "Apparel > Topwear", "红色"])
    numbers = [1876991140421276174, 4230804282902321250, 7937631791451431757]
    assert found.tolist() == [[number % (2**31 - 1)] for number in numbers]


@given(st.lists(st.text("ab> ", max_size=30), max_size=6), st.sampled_from([1, 7, BUCKETS]))
def test_levels_are_values_of_their_own(categories: list[str], buckets: int) -> None:
    side = SideColumns(("category", "product_id"), buckets)
    rows = [{"product_id": f"p{row}", "category": category} for row, category in enumerate(categories)]
    found = side.arrays(rows)["side_ids"]
    assert (found.dtype, found.shape) == (np.int32, (len(rows), 2, LEVELS))
    assert found.max(initial=0) < buckets
    if buckets == BUCKETS:
        for row, ids in zip(rows, found, strict=True):
            np.testing.assert_array_equal(ids, expected(**row))
    for category, ids in zip(categories, found[:, 0].tolist(), strict=True):
        levels = len([name for name in category.split(">") if name.strip()])
        assert [bucket >= 0 for bucket in ids] == [place < levels for place in range(LEVELS)]


def test_a_path_is_not_its_last_name() -> None:
    paths = ["Men > Shoes", "Women > Shoes", " Men>Shoes > ", "Shoes", "Men"]
    men, women, spaced, shoes, only_men = BOTH.buckets_of("category", paths)
    assert men[0] == spaced[0] == only_men[0] != women[0]
    assert men[1] == spaced[1]
    assert len({int(men[1]), int(women[1]), int(shoes[0])}) == 3
    deep = " > ".join("abcdefghij")
    np.testing.assert_array_equal(*BOTH.buckets_of("category", [deep, " > ".join("abcdefgh")]))
    assert BOTH.buckets_of("product_id", ["a > b", ""]).tolist()[1] == [-1]  # an id is one value, whatever is in it


def test_as_many_values_share_a_bucket_as_chance_has_it() -> None:
    buckets, trained = 4096, 1000
    ids = SideColumns(("product_id",), buckets).buckets_of("product_id", [f"p{row}" for row in range(5000)])[:, 0]
    taken = np.isin(ids[trained:], ids[:trained]).mean()
    assert abs(taken - (1 - (1 - 1 / buckets) ** trained)) < 0.03


def test_batches_tell_the_buckets_of_their_products(data: PreparedData) -> None:
    whole = np.stack([expected(f"p{row}", CATEGORIES[row % 5]) for row in range(COUNT)])
    for batch in train(data):
        np.testing.assert_array_equal(batch["side_ids"], whole[batch["product_key"]])
    found = catalogue(data)
    np.testing.assert_array_equal(np.concatenate([batch["side_ids"] for batch in found])[:COUNT], whole)
    assert (found[-1]["side_ids"][~found[-1]["valid"]] == -1).all()
    alone = BatchShape(8, 6, (10, 8), num_images=2, side=SideColumns(("product_id",), BUCKETS))
    ids = np.concatenate([batch["side_ids"] for batch in catalogue(data, alone)])[:COUNT]
    np.testing.assert_array_equal(ids, whole[:, 1:, :1])
    assert "side_ids" not in catalogue(data, BatchShape(8, 6, (10, 8), num_images=2))[0]


def test_hard_negatives_have_theirs(data: PreparedData) -> None:
    whole = data.side_table(BOTH).arrays(np.arange(COUNT))["side_ids"]
    mined = HardNegatives(np.repeat(np.arange(0, 20, 2), 3), np.arange(30), 2)
    for batch in train(data, mined):
        negatives = batch["negative_key"]
        rows = np.where(negatives == -1, batch["product_key"][:, None], negatives)
        np.testing.assert_array_equal(batch["negative_side_ids"], whole[rows])
        np.testing.assert_array_equal(batch["side_ids"], whole[batch["product_key"]])


def test_every_form_of_data_gives_the_same(data: PreparedData, roots: dict[Storage, Path], tmp_path: Path) -> None:
    write_cache(data, tmp_path / "CACHE", SHAPE, progress=False)
    cached = open_cache(tmp_path / "CACHE")
    assert_same(catalogue(cached), catalogue(data))
    mined = HardNegatives(np.arange(20), np.arange(20), 1)
    assert_same(train(cached, mined), train(data, mined))
    assert_same(catalogue(open_prepared(roots["tfrecord"])), catalogue(data))
    halves = [train(data, host=host, hosts=2) for host in range(2)]
    joined = [{name: np.concatenate([a[name], b[name]]) for name in a} for a, b in zip(*halves, strict=True)]
    assert_same(joined, train(data))
    tokenizer = word_tokenizer()
    records = [record(row, **CHANGES[row]) for row in range(COUNT)]
    with row_batches(records, tokenizer, SHAPE, batch_size=12) as batches:
        for ours, theirs in zip(batches, catalogue(data), strict=True):
            np.testing.assert_array_equal(ours["side_ids"], theirs["side_ids"])
            assert ours["side_ids"].dtype == np.int32


def test_a_row_may_lack_a_value() -> None:
    found = BOTH.arrays([{"product_id": "p1", "category": None}, {"product_id": "p2", "category": ""}])["side_ids"]
    assert (found[:, 0] == -1).all()
    assert (found[:, 1, 0] >= 0).all()
    assert SideColumns().arrays([{}]) == SideTable((), ()).arrays(np.arange(3)) == {}


def test_mixed_data_are_end_to_end(data: PreparedData, tmp_path: Path) -> None:
    changes = {row: {"product_id": f"o{row}", "category": "Home > Lamps", **title(2, 7, 3)} for row in range(20)}
    other = open_prepared(write_data(tmp_path / "other", 20, changes=changes, tokenizer=word_tokenizer()))
    mixed = MixedData([data, other])
    rows = np.array([0, 39, 40, 59])
    want = np.stack([expected(f"p{row}", CATEGORIES[row % 5]) for row in (0, 39)])
    want = np.concatenate([want, np.stack([expected(f"o{row}", "Home > Lamps") for row in (0, 19)])])
    np.testing.assert_array_equal(mixed.side_table(BOTH).arrays(rows)["side_ids"], want)
    found = np.concatenate([batch["side_ids"] for batch in catalogue(mixed, start=36)])
    np.testing.assert_array_equal(found[4:24], mixed.side_table(BOTH).arrays(np.arange(40, 60))["side_ids"])


def test_data_without_the_column_are_refused_by_name(data: PreparedData, tmp_path: Path) -> None:
    bare = open_prepared(write_data(tmp_path / "bare", COUNT, changes=NO_CATEGORY, tokenizer=word_tokenizer()))
    for refused in (bare, MixedData([data, bare])):
        for use in (catalogue, train):
            with pytest.raises(DataError) as error:
                use(refused)
            assert f"{bare.path}: no product has a category, which model.side.columns asks for" in str(error.value)
    only_ids = BatchShape(8, 6, (10, 8), num_images=2, side=SideColumns(("product_id",)))
    assert catalogue(MixedData([data, bare]), only_ids)
    empty = pa.table({"category": pa.array([None, ""], pa.string())})
    with pytest.raises(DataError, match="somewhere: no product has a category"):
        SideTable.of(SideColumns(("category",)), empty, "somewhere")


def test_columns_that_there_are_not() -> None:
    with pytest.raises(DataError, match=r"has 'brand', but what is kept .* is 'product_id' and 'category'"):
        SideColumns(("category", "brand"))
    with pytest.raises(DataError, match="buckets=0 must be at least 1"):
        SideColumns(("category",), 0)
