"""Batches against the records they were made of, on small prepared data on disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from catalogue_files import picture
from prepared_files import record, title, word_tokenizer, write_data

from data_pipelines.augmentation import AugmentSpec
from data_pipelines.dataset import PreparedData, open_prepared
from data_pipelines.decode import decode_pictures
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, FeedOptions, Sampling
from data_pipelines.input import catalogue_batches, query_batches, train_batches
from data_pipelines.order import PairOrder, pair_weights
from data_pipelines.plans import TrainPlans
from data_pipelines.query_arrays import QueryMasking, QueryOutput
from data_pipelines.query_variation import QueryVariation
from data_pipelines.shards import Storage
from data_pipelines.stored_feed import row_batches
from data_pipelines.title_arrays import TitleOutput
from data_pipelines.tokenizer import TextTokenizer, load_tokenizer
from data_pipelines.word_keys import QueryWordKeys

COUNT, PER_SHARD, BATCH, WIDTH = 40, 7, 8, 5
SHAPE = BatchShape(4, 5, (20, 16), num_images=2)
WIDE = BatchShape(8, 12, (20, 16), num_images=2)
NO_TITLE: dict[str, Any] = {"title": "", **title()}
CHANGES: dict[int, dict[str, Any]] = {
    3: NO_TITLE,
    4: {"images": []},
    6: {"images": [picture(60), picture(61, (9, 30)), picture(62)]},
    8: {"images": [picture(8, kind="PNG")], **title(2, 7, 8, 9, 10, 11, 12, 13, 3)},
    10: {**NO_TITLE, "images": [picture(70), picture(71)]},
    38: title(2, *range(20, 40), 3),
}
RECORDS = [record(number, **CHANGES.get(number, {})) for number in range(COUNT)]
both = pytest.mark.parametrize("data", get_args(Storage), indirect=True)
Batch = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[Storage, Path]:
    folder = tmp_path_factory.mktemp("prepared")
    # One has padding 0 and the other 1, so that neither is taken for granted.
    tokenizers = {"array_record": None, "tfrecord": word_tokenizer()}
    return {
        storage: write_data(folder / storage, COUNT, PER_SHARD, storage, CHANGES, tokenizers[storage])
        for storage in get_args(Storage)
    }


@pytest.fixture
def data(request: pytest.FixtureRequest, roots: dict[Storage, Path]) -> PreparedData:
    return open_prepared(roots[getattr(request, "param", "array_record")])


@pytest.fixture(scope="module")
def region_data(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    rows = {number: {"images": [], "regions": regions(number).tobytes()} for number in range(COUNT)}
    return open_prepared(write_data(tmp_path_factory.mktemp("regions") / "DATA", changes=rows, region_width=WIDTH))


def regions(number: int) -> np.ndarray:
    """float16[number % 4, F], so some products have none."""
    return np.random.default_rng(number).normal(size=(number % 4, WIDTH)).astype(np.float16)


def plans(
    data: PreparedData,
    shape: BatchShape = SHAPE,
    host: int = 0,
    hosts: int = 1,
    queries: QueryOutput | None = None,
    **changes: Any,
) -> TrainPlans:
    sampling = Sampling(BATCH, **{"seed": 3, "purchase_weight": 2.0, **changes})
    return TrainPlans(data, sampling, shape, host, hosts, queries)


def varied(tokenizer: TextTokenizer) -> QueryOutput:
    """All that can be done to queries."""
    return QueryOutput(tokenizer, QueryVariation(0.4, 0.5), QueryMasking(0.5, tokenizer), QueryWordKeys(tokenizer))


def train(planned: TrainPlans, data: PreparedData, steps: int = 4, **options: Any) -> list[Batch]:
    with train_batches(data, planned, num_steps=steps, **options) as batches:
        return list(batches)


def assert_same(ours: Batch, theirs: Batch) -> None:
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


def padded(values: np.ndarray, width: int, padding: int) -> list[int]:
    items = values.tolist()
    items = items if len(items) <= width else [*items[: width - 1], items[-1]]
    return items + [padding] * (width - len(items))


def assert_shows(batch: Batch, row: int, stored: dict[str, Any], shape: BatchShape, pad_id: int) -> None:
    """A row has the title and the pictures of a record, to the bit."""
    width = batch["title_ids"].shape[1]
    assert batch["title_ids"][row].tolist() == padded(stored["title_ids"], width, pad_id)
    for number in range(shape.num_images):
        there = number < len(stored["images"])
        assert batch["has_image"][row, number] == there
        pixels = decode_pictures([stored["images"][number]], *shape.image_size)[0][0] if there else 0
        np.testing.assert_array_equal(batch["image"][row, number], pixels)


def expected_pairs(data: PreparedData, steps: int) -> Iterator[list[tuple[int, int]]]:
    """(query, product) of each row of each batch, worked out from the tables."""
    log = data.interactions
    weights = pair_weights(log, 0.75, 2.0)
    groups = None if data.storage == "array_record" else log["product_index"] // PER_SHARD  # sorted by product
    order = PairOrder(weights, BATCH, 3, groups)
    for step in range(steps):
        pairs = order.batch(step)
        yield list(zip(log["query_index"][pairs].tolist(), log["product_index"][pairs].tolist(), strict=True))


def test_contract(data: PreparedData) -> None:
    tokenizer = load_tokenizer(data.tokenizer_path)
    titles = TitleOutput(spans=True, mask_share=0.3, word_keys=True, tokenizer=tokenizer)
    queries = QueryOutput(tokenizer, masking=QueryMasking(0.3, tokenizer), word_keys=QueryWordKeys(tokenizer))
    planned = plans(data, queries=queries, max_product_queries=3)
    (batch,) = train(planned, data, steps=1, titles=titles)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "query_ids": ((8, 4), np.int32),
        "title_ids": ((8, 5), np.int32),
        "image": ((8, 2, 20, 16, 3), np.uint8),
        "has_image": ((8, 2), bool),
        "query_key": ((8,), np.int32),
        "product_key": ((8,), np.int32),
        "product_queries": ((8, 3), np.int32),
        "query_log_q": ((8,), np.float32),
        "product_log_q": ((8,), np.float32),
        "title_words": ((8, 5), np.int32),
        "title_keywords": ((8, 5), bool),
        "masked_title_ids": ((8, 5), np.int32),
        "title_targets": ((8, 5), np.int32),
        "masked_query_ids": ((8, 4), np.int32),
        "query_targets": ((8, 4), np.int32),
        "title_word_keys": ((8, 5), np.int32),
        "query_word_keys": ((8, 4), np.int32),
    }


@both
@pytest.mark.parametrize("shape", [SHAPE, WIDE], ids=["cut", "whole"])
def test_training_batches_are_the_records_in_order(data: PreparedData, shape: BatchShape) -> None:
    batches = train(plans(data, shape), data, steps=12, titles=TitleOutput(spans=True))
    texts = np.split(data.query_ids.values, data.query_ids.splits[1:-1])
    seen: set[int] = set()
    for batch, pairs in zip(batches, expected_pairs(data, 12), strict=True):
        for row, (query, product) in enumerate(pairs):
            assert batch["product_key"][row] == product
            assert batch["query_key"][row] == data.query_keys[query]
            assert batch["query_ids"][row].tolist() == padded(texts[query], shape.max_query_tokens, data.pad_id)
            # Each of these products was clicked under one query.
            assert batch["product_queries"][row].tolist() == padded(data.query_keys[[query]], 64, -1)
            stored, width = RECORDS[product], shape.max_title_tokens
            assert_shows(batch, row, stored, shape, data.pad_id)
            assert batch["title_words"][row].tolist() == padded(stored["title_words"], width, -1)
            assert batch["title_keywords"][row].tolist() == padded(stored["title_keywords"], width, 0)
            seen.add(product)
    assert seen >= {number for number in CHANGES if number < COUNT - 5}
    assert data.pad_id == (0 if data.storage == "array_record" else 1)


@both
def test_cold_products_come_with_their_own_title_and_pictures(data: PreparedData) -> None:
    batches = train(plans(data, cold_share=0.5), data, steps=6)
    seen = set()
    for batch in batches:
        for row, product in enumerate(batch["product_key"].tolist()):
            assert_shows(batch, row, RECORDS[product], SHAPE, data.pad_id)
            seen.add(product)
    assert seen >= set(range(COUNT - 5, COUNT))


@both
def test_any_step_can_be_the_first(data: PreparedData) -> None:
    spec = AugmentSpec(min_scale=0.5, flip=True)
    tokenizer = load_tokenizer(data.tokenizer_path)
    titles = TitleOutput(mask_share=0.5, word_keys=True, tokenizer=tokenizer)
    planned = plans(data, queries=varied(tokenizer), cold_share=0.2, pseudo_share=0.1, query_swap=0.5)
    whole = train(planned, data, steps=8, augment=spec, titles=titles)
    options = FeedOptions(threads=1, prefetch=1)
    again = plans(data, queries=varied(tokenizer), cold_share=0.2, pseudo_share=0.1, query_swap=0.5)
    resumed = train(again, data, steps=3, start_step=5, augment=spec, titles=titles, options=options)
    for ours, theirs in zip(resumed, whole[5:], strict=True):
        assert_same(ours, theirs)
    (late,) = train(planned, data, steps=1, start_step=10**6)
    (later,) = train(again, data, steps=1, start_step=10**6)
    assert_same(late, later)


@both
@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_the_global_batch(data: PreparedData, hosts: int) -> None:
    shape = BatchShape(8, 12, (20, 16), num_images=2, length_multiple=2)
    settings: dict[str, Any] = {"cold_share": 0.3, "recency_half_life": 3.0}
    spec = AugmentSpec(min_scale=0.5)
    whole = train(plans(data, shape, **settings), data, augment=spec)
    parts = [train(plans(data, shape, host, hosts, **settings), data, augment=spec) for host in range(hosts)]
    for step, batch in enumerate(whole):
        assert_same({name: np.concatenate([part[step][name] for part in parts]) for name in batch}, batch)
        assert all(len(part[step]["product_key"]) == BATCH // hosts for part in parts)


@both
def test_short_batches_hold_the_same_with_less_padding(data: PreparedData) -> None:
    short = BatchShape(8, 12, (20, 16), num_images=2, length_multiple=2)
    widths = set()
    for brief, full in zip(train(plans(data, short), data, 8), train(plans(data, WIDE), data, 8), strict=True):
        cut = dict(full)
        for name in ("query_ids", "title_ids"):
            width = brief[name].shape[1]
            cut[name] = full[name][:, :width]
            assert (full[name][:, width:] == data.pad_id).all()
            widths.add(width)
        assert_same(brief, cut)
    assert max(widths) <= 10
    assert len(widths) > 1


def test_augmentation_changes_pictures_only_and_each_in_its_own_way(data: PreparedData) -> None:
    spec = AugmentSpec(min_scale=0.3)
    (plain,), (ours,) = (train(plans(data), data, 1, augment=augment) for augment in (AugmentSpec(), spec))
    changed = (ours["image"] != plain["image"]).any(axis=(2, 3, 4))
    assert not changed[~plain["has_image"]].any()
    assert changed.sum() > plain["has_image"].sum() / 2  # of so small pictures some parts round to the whole
    assert_same({**ours, "image": plain["image"]}, plain)
    # A product that is drawn twice is seen in two ways.
    views: dict[int, list[bytes]] = {}
    for batch in train(plans(data), data, 12, augment=spec):
        for product in np.flatnonzero(batch["has_image"][:, 0]).tolist():
            views.setdefault(int(batch["product_key"][product]), []).append(batch["image"][product, 0].tobytes())
    twice = [len(set(seen)) > 1 for seen in views.values() if len(seen) > 1]
    assert sum(twice) > len(twice) / 2


def test_masked_titles_hide_words_and_ask_for_them(data: PreparedData) -> None:
    tokenizer = load_tokenizer(data.tokenizer_path)
    asked = 0
    for batch in train(plans(data, WIDE), data, 4, titles=TitleOutput(mask_share=0.5, tokenizer=tokenizer)):
        hidden = batch["title_targets"] >= 0
        np.testing.assert_array_equal(batch["title_targets"][hidden], batch["title_ids"][hidden])
        np.testing.assert_array_equal(batch["masked_title_ids"][~hidden], batch["title_ids"][~hidden])
        assert not hidden[batch["title_ids"] == data.pad_id].any()
        asked += hidden.sum()
    assert asked > 10
    with pytest.raises(DataError, match=r"mask_share=0\.5 needs the tokenizer"):
        TitleOutput(mask_share=0.5)


def test_regions_stand_in_the_place_of_pixels(region_data: PreparedData) -> None:
    shape = BatchShape(8, 12, (20, 16), num_images=0, num_regions=2)
    found = train(plans(region_data, shape), region_data) + catalogue(region_data, shape)
    for batch in found[:4]:
        assert batch["image"].dtype == np.float32
        for row, product in enumerate(batch["product_key"].tolist()):
            stored = regions(product)[:2].astype(np.float32)
            assert batch["has_image"][row].tolist() == [number < len(stored) for number in range(2)]
            np.testing.assert_array_equal(batch["image"][row], np.pad(stored, [(0, 2 - len(stored)), (0, 0)]))
    assert sum(batch["has_image"].sum() for batch in found[4:]) == sum(min(2, number % 4) for number in range(COUNT))


@pytest.mark.parametrize("kind", ["pictures", "regions"])
def test_data_of_the_other_kind_is_refused(data: PreparedData, region_data: PreparedData, kind: str) -> None:
    if kind == "pictures":
        shown, shape, message = region_data, SHAPE, "has region features of width 5, but num_images=2 and num_regions=0"
    else:
        shown, shape, message = data, BatchShape(8, 12, (20, 16), 0, 3), "has pictures, but num_images=0"
    with pytest.raises(DataError, match=message):
        train_batches(shown, plans(shown, shape))
    with pytest.raises(DataError, match=message):
        catalogue_batches(shown, shape, batch_size=5)


def catalogue(data: PreparedData, shape: BatchShape = SHAPE, **changes: Any) -> list[Batch]:
    with catalogue_batches(data, shape, **{"batch_size": 5, **changes}) as batches:
        return list(batches)


@both
@pytest.mark.parametrize(("start", "stop"), [(0, None), (4, 14), (7, 7), (39, 40)])
def test_catalogue_batches(data: PreparedData, start: int, stop: int | None) -> None:
    wanted = RECORDS[start:stop]
    batches = catalogue(data, start=start, stop=stop, batch_size=6)
    assert len(batches) == -(-len(wanted) // 6)
    for number, batch in enumerate(batches):
        part = wanted[number * 6 :][:6]
        missing = 6 - len(part)
        assert batch.keys() == {"title_ids", "image", "has_image", "product_id", "valid"}
        assert batch["product_id"].tolist() == [stored["product_id"] for stored in part] + [""] * missing
        assert batch["valid"].tolist() == [True] * len(part) + [False] * missing
        for row, stored in enumerate(part):
            assert_shows(batch, row, stored, SHAPE, data.pad_id)
        assert not batch["has_image"][len(part) :].any()
        assert not batch["image"][len(part) :].any()
        assert (batch["title_ids"][len(part) :] == data.pad_id).all()


def test_catalogue_batches_are_as_long_as_their_own_titles(data: PreparedData) -> None:
    shape = BatchShape(8, 24, (20, 16), num_images=2, length_multiple=4)
    assert [batch["title_ids"].shape[1] for batch in catalogue(data, shape, batch_size=10)] == [12, 4, 4, 24]


@pytest.mark.parametrize("multiple", [0, 4])
def test_raw_rows_give_the_same_batches(tmp_path: Path, multiple: int) -> None:
    tokenizer = word_tokenizer()
    ids = tokenizer.encode([stored["title"] for stored in RECORDS], 512)
    stored = {number: {**CHANGES.get(number, {}), **title(*ids[number])} for number in range(COUNT)}
    data = open_prepared(write_data(tmp_path / "DATA", changes=stored, tokenizer=tokenizer))
    rows = [{**row, "title": row["title"] or None} for row in RECORDS]
    shape = BatchShape(4, 8, (20, 16), num_images=2, length_multiple=multiple)
    with row_batches(rows, tokenizer, shape, batch_size=6) as batches:
        ours = list(batches)
    for batch, other in zip(ours, catalogue(data, shape, batch_size=6), strict=True):
        assert_same(batch, other)


def test_raw_rows_with_regions(region_data: PreparedData) -> None:
    tokenizer = load_tokenizer(region_data.tokenizer_path)
    shape = BatchShape(4, 8, (20, 16), num_images=0, num_regions=3)
    rows = [
        {"product_id": f"p{number}", "title": "red shirt", "images": [], "regions": regions(number).tobytes()}
        for number in range(COUNT)
    ]
    with row_batches(rows, tokenizer, shape, batch_size=5, region_width=WIDTH) as batches:
        for batch, other in zip(batches, catalogue(region_data, shape), strict=True):
            assert_same({**batch, "title_ids": other["title_ids"]}, other)


def test_a_bad_picture_in_raw_rows_stops_them() -> None:
    rows = [
        {"product_id": f"p{row}", "title": "red", "images": [b"junk"] * (row == 7), "regions": b""} for row in range(9)
    ]
    with row_batches(rows, word_tokenizer(), SHAPE, batch_size=5, source="new.parquet") as batches:
        assert next(batches)["valid"].all()
        with pytest.raises(DataError, match=r"new.parquet: product 'p7': the picture is not a sound JPEG or PNG"):
            next(batches)


def test_query_batches() -> None:
    tokenizer = word_tokenizer()
    texts = ["red shirt", "blue dress no 5 shoes", "mug", "", "white"]
    batches = list(query_batches(iter(texts), tokenizer, batch_size=2, max_query_tokens=4))
    ids = np.concatenate([batch["query_ids"] for batch in batches])
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids[:5], tokenizer.encode_padded(texts, 4))
    assert (ids[5] == tokenizer.pad_id).all()
    assert [batch["valid"].tolist() for batch in batches] == [[True, True], [True, True], [True, False]]
    for sizes, message in (((0, 4), "batch_size=0"), ((2, 2), "max_query_tokens=2")):
        with pytest.raises(DataError, match=message):
            query_batches(texts, tokenizer, batch_size=sizes[0], max_query_tokens=sizes[1])


def test_rows_outside_the_catalogue_and_sizes_that_cannot_be(data: PreparedData) -> None:
    for start, stop in ((-1, 4), (5, 41), (9, 8)):
        with pytest.raises(DataError, match=f"rows {start} to {stop} asked for, but it has 40 products"):
            catalogue(data, start=start, stop=stop)
    with pytest.raises(DataError, match="batch_size=0"):
        catalogue(data, batch_size=0)
    with pytest.raises(DataError, match="image_size"):
        catalogue(data, BatchShape(4, 5, (0, 4)))
