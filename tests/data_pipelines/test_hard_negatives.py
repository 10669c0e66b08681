"""Hard negatives in batches: drawn by seed and step from the mined list, the same from everywhere and for any hosts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_files import write_data

from data_pipelines.augmentation import AugmentSpec
from data_pipelines.cache import open_cache
from data_pipelines.cache_writer import write_cache
from data_pipelines.dataset import PreparedData, open_prepared
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, Sampling
from data_pipelines.hard_negatives import HardNegatives, open_negatives, write_negatives
from data_pipelines.input import train_batches
from data_pipelines.mixture import MixedData
from data_pipelines.plans import TrainPlans
from data_pipelines.prepared import ProductData

SHAPE = BatchShape(8, 12, (10, 8), num_images=2)
SHORT = BatchShape(8, 12, (10, 8), num_images=2, length_multiple=2)
# Of the 20 queries of the log those with even numbers have negatives, some only one.
KEYS = np.array([key for key in range(0, 20, 2) for _ in range(1 + key // 2)])
ROWS = (KEYS * 7 + np.arange(len(KEYS)) * 3) % 40
Batch = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    return open_prepared(write_data(tmp_path_factory.mktemp("data") / "data"))


def negatives(per_pair: int = 2) -> HardNegatives:
    return HardNegatives(KEYS, ROWS, per_pair)


def batches(
    data: ProductData, shape: BatchShape = SHAPE, hosts: int = 1, start: int = 0, steps: int = 3, **options: object
) -> list[Batch]:
    """Global batches of 8 pairs, put together from the parts of so many hosts."""
    parts = []
    for host in range(hosts):
        plans = TrainPlans(data, Sampling(8, seed=4), shape, host, hosts, hard_negatives=negatives())
        with train_batches(data, plans, start_step=start, num_steps=steps, **options) as reader:
            parts.append(list(reader))
    return [{name: np.concatenate([p[name] for p in step]) for name in step[0]} for step in zip(*parts, strict=True)]


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, array in other.items():
            np.testing.assert_array_equal(one[name], array, err_msg=name)


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 30)), min_size=1, max_size=40, unique=True),
    st.integers(1, 5),
    st.integers(0, 10**9),
)
@settings(max_examples=60)
def test_a_query_gets_different_ones_of_its_own_list(mined: list[tuple[int, int]], count: int, position: int) -> None:
    keys, rows = np.array(mined).T
    table = HardNegatives(keys, rows, count)
    asked = np.arange(9)  # some of which nothing was mined for
    drawn = table.draw(asked, position + asked, seed=5)
    assert drawn.shape == (9, count)
    for key, found in zip(asked, drawn.tolist(), strict=True):
        own = {row for query, row in mined if query == key}
        kept = [row for row in found if row != -1]
        assert len(set(kept)) == len(kept) == min(count, len(own))
        assert set(kept) <= own
        assert found == kept + [-1] * (count - len(kept))
    np.testing.assert_array_equal(table.draw(asked[3:], position + asked[3:], seed=5), drawn[3:])


def test_every_mined_product_has_its_turn() -> None:
    drawn = HardNegatives(np.zeros(10, int), np.arange(10), 2).draw(np.zeros(1000, int), np.arange(1000), seed=0)
    times = np.bincount(drawn.reshape(-1), minlength=10)
    assert times.sum() == 2000
    assert times.min() > 140  # 200 ± 13


def test_the_arrays_are_those_of_the_products(data: PreparedData) -> None:
    table = negatives()
    for step, batch in enumerate(batches(data)):
        expected = table.draw(batch["query_key"], step * 8 + np.arange(8), seed=4)
        np.testing.assert_array_equal(batch["negative_key"], expected)
        assert (expected == -1).any()
        assert (expected != -1).any()
        assert batch["negative_title_ids"].shape == (8, 2, 12)
        assert batch["negative_image"].shape == (8, 2, 2, 10, 8, 3)
        assert batch["negative_queries"].shape == (8, 2, 64)
        assert {len(array) for array in batch.values()} == {8}
        for row, column in zip(*np.nonzero(expected != -1), strict=True):
            product = int(expected[row, column])
            [stored] = data.records([product])
            ids = batch["negative_title_ids"][row, column]
            np.testing.assert_array_equal(ids[: len(stored["title_ids"])], stored["title_ids"])
            assert batch["negative_has_image"][row, column].sum() == len(stored["images"])
            queries = batch["negative_queries"][row, column]
            clicked = data.interactions["product_index"] == product
            keys = data.query_keys[data.interactions["query_index"][clicked]]
            assert set(keys) <= set(queries.tolist())


def test_the_pairs_are_the_same_with_and_without(data: PreparedData) -> None:
    plain = TrainPlans(data, Sampling(8, seed=4), SHAPE, 0, 1)
    with train_batches(data, plain, num_steps=3) as reader:
        without = list(reader)
    ours = [{name: b[name] for name in b if not name.startswith("negative")} for b in batches(data)]
    assert_same(ours, without)


@pytest.mark.parametrize("shape", [SHAPE, SHORT])
def test_any_host_and_any_step_agree(data: PreparedData, shape: BatchShape) -> None:
    varied = {"augment": AugmentSpec(min_scale=0.5)}
    alone = batches(data, shape, steps=4, **varied)
    assert_same(batches(data, shape, hosts=2, steps=4, **varied), alone)
    assert_same(batches(data, shape, start=2, steps=2, **varied), alone[2:])


def test_a_cache_gives_the_same(data: PreparedData, tmp_path: Path) -> None:
    write_cache(data, tmp_path / "cache", SHAPE, progress=False)
    assert_same(batches(open_cache(tmp_path / "cache"), SHORT), batches(data, SHORT))


def test_a_mixture_has_them_too(data: PreparedData, tmp_path: Path) -> None:
    other = open_prepared(write_data(tmp_path / "other"))
    mixed = MixedData([data, other])
    table = HardNegatives(KEYS, ROWS + 40, 2)  # all in the second part, whose products are those of the first
    plans = TrainPlans(mixed, Sampling(8, seed=4), SHAPE, 0, 1, hard_negatives=table)
    with train_batches(mixed, plans, num_steps=1) as reader:
        batch = next(reader)
    there = batch["negative_key"] != -1
    [stored] = data.records([int(batch["negative_key"][there][0]) - 40])
    ids = batch["negative_title_ids"][there][0]
    np.testing.assert_array_equal(ids[: len(stored["title_ids"])], stored["title_ids"])


def test_streamed_shards_are_refused(tmp_path: Path) -> None:
    streamed = open_prepared(write_data(tmp_path / "data", storage="tfrecord"))
    with pytest.raises(DataError, match="TFRecord shards are read front to back; run `make-jax data cache`"):
        TrainPlans(streamed, Sampling(8, seed=4), SHAPE, 0, 1, hard_negatives=negatives())
    with pytest.raises(DataError, match="per_pair=0 must be at least 1"):
        negatives(0)


def test_what_is_written_is_read_and_damage_is_found(tmp_path: Path) -> None:
    columns = {
        "query_key": KEYS.astype(np.int32),
        "product_row": ROWS.astype(np.int32),
        "product_id": np.array([f"p{row}" for row in ROWS], object),
        "score": np.linspace(0, 1, len(ROWS), dtype=np.float32),
    }
    out = tmp_path / "negatives"
    for _ in range(2):  # the second time in place of the first
        write_negatives(out, columns, {"negatives": len(ROWS)}, {"depth": 3}, {"data": "d" * 64, "model": "m" * 64})
    found = open_negatives(out, 2)
    asked = np.arange(20)
    np.testing.assert_array_equal(found.draw(asked, asked, 1), negatives().draw(asked, asked, 1))
    found.check("DATA", "d" * 64)
    with pytest.raises(DataError, match=r"mined from data dddddddddddd, but DATA is data eeeeeeeeeeee"):
        found.check("DATA", "e" * 64)
    with pytest.raises(DataError, match="there are no mined negatives; make them with `make-jax mine`"):
        open_negatives(tmp_path / "nowhere", 2)
    with (out / "negatives.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match=r"negatives\.parquet has \d+ bytes"):
        open_negatives(out, 2)
