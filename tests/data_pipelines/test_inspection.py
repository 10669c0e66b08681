"""The inspection of prepared data: what it says is what the tables, the shards and the batches hold."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from catalogue_files import picture
from prepared_files import record, write_data, write_shards

from data_pipelines.augmentation import NO_AUGMENT, AugmentSpec
from data_pipelines.dataset import PreparedData, open_prepared
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, FeedOptions, Sampling
from data_pipelines.input import train_batches
from data_pipelines.inspection import inspect
from data_pipelines.inspection.contents import read_contents
from data_pipelines.inspection.examples import Text, training_examples
from data_pipelines.inspection.scan import scan_products
from data_pipelines.inspection.speed import InputSpeed
from data_pipelines.manifest import read_manifest
from data_pipelines.plans import TrainPlans
from data_pipelines.quarantine import write_rows
from data_pipelines.records import serialize_product
from data_pipelines.schema import BadRow
from data_pipelines.shards import Storage
from data_pipelines.tokenizer import load_tokenizer

SHAPE = BatchShape(max_query_tokens=8, max_title_tokens=24, image_size=(24, 16), num_images=2)
SAMPLING = Sampling(batch_size=12, seed=5, cold_share=0.4)
OPTIONS = FeedOptions(threads=2)
CROP = AugmentSpec(min_scale=0.3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    """Forty products, five of them never clicked."""
    root = write_data(tmp_path_factory.mktemp("inspection") / "data")
    write_rows([BadRow("products", "p.csv", n, f"x{n}", "bad_image", f"cut at {n}") for n in range(5)], report(root))
    return open_prepared(root)


def report(root: Path) -> Path:
    return root / "quarantine.parquet"


def spelling(text: Text) -> list[str]:
    """The words of a text as a WordPiece tokenizer spells them."""
    words = ["".join(t.text.removeprefix("##") for t in word.tokens) for word in text.words]
    return [word for word, parts in zip(words, text.words, strict=True) if parts.tokens[0].kind == "text"]


def test_the_pictures_are_those_of_the_batch(prepared: PreparedData) -> None:
    plans = TrainPlans(prepared, SAMPLING, SHAPE, 0, 1)
    examples = training_examples(prepared, plans, CROP, OPTIONS, count=100, step=3)
    with (
        train_batches(prepared, plans, start_step=3, num_steps=1, augment=CROP) as varied,
        train_batches(prepared, plans, start_step=3, num_steps=1) as plain,
    ):
        batch, reference = next(varied), next(plain)
    assert len(examples) == 12
    assert [e.product_id for e in examples] == [f"p{row}" for row in batch["product_key"]]
    for i, example in enumerate(examples):
        assert len(example.pictures) == batch["has_image"][i].sum() == example.num_images
        for k, shown in enumerate(example.pictures):
            assert shown.plain is not None
            assert np.array_equal(shown.seen, batch["image"][i, k])
            assert np.array_equal(shown.plain, reference["image"][i, k])
    assert any(not np.array_equal(p.seen, p.plain) for e in examples for p in e.pictures if p.plain is not None)


def test_without_variation_there_is_no_second_picture(prepared: PreparedData) -> None:
    plans = TrainPlans(prepared, SAMPLING, SHAPE, 0, 1)
    examples = training_examples(prepared, plans, NO_AUGMENT, OPTIONS, count=4, step=0)
    assert [picture.plain for e in examples for picture in e.pictures] == [None] * sum(e.num_images for e in examples)


def test_clicks_and_made_up_queries_are_those_of_the_tables(prepared: PreparedData) -> None:
    plans = TrainPlans(prepared, SAMPLING, SHAPE, 0, 1)
    examples = [
        e for step in (0, 1) for e in training_examples(prepared, plans, NO_AUGMENT, OPTIONS, count=9, step=step)
    ]
    assert {e.is_made_up for e in examples} == {False, True}
    pairs = prepared.interactions
    log = {
        (prepared.queries[query], f"p{product}"): (clicks, purchases)
        for query, product, clicks, purchases, _ in zip(*(column.tolist() for column in pairs.values()), strict=True)
    }
    for example in examples:
        if example.is_made_up:
            assert int(example.product_id[1:]) >= 35
            assert example.query == f"no {example.product_id[1:]}"
            assert (example.clicks, example.purchases) == (0, 0)
        else:
            assert (example.clicks, example.purchases) == log[example.query, example.product_id]


def test_tokens_are_grouped_by_word_and_those_cut_off_are_named(tiny_data: Path) -> None:
    data = open_prepared(tiny_data)
    shape = BatchShape(max_query_tokens=32, max_title_tokens=6, image_size=(16, 16))
    plans = TrainPlans(data, Sampling(batch_size=32, seed=1), shape, 0, 1)
    examples = training_examples(data, plans, NO_AUGMENT, OPTIONS, count=32, step=0)
    tokenizer = load_tokenizer(data.tokenizer_path)
    row_of = {product_id: row for row, product_id in enumerate(data.product_ids)}
    cut = 0
    for example in examples:
        title = example.title_text
        [stored] = data.records([row_of[example.product_id]])
        assert example.title == stored["title"]
        assert title.num_tokens == min(6, len(stored["title_ids"]))
        assert title.num_cut == len(stored["title_ids"]) - title.num_tokens
        assert title.cut == tokenizer.decode(stored["title_ids"][5:-1] if title.num_cut else [])
        assert spelling(example.query_text) == re.findall(r"\w+|[^\w\s]", example.query)
        ends = [example.query_text.words[i].tokens for i in (0, -1)]
        assert ends == [[("start", "special")], [("end", "special")]]
        cut += title.num_cut
    assert cut
    assert any(word.keyword for e in examples for word in e.title_text.words)
    assert not any(word.keyword for e in examples for word in e.query_text.words)


def test_contents_are_counted(prepared: PreparedData) -> None:
    contents = read_contents(prepared)
    assert contents.num_products == 40
    assert contents.share_cold == 5 / 40
    assert (len(contents.query_tokens), len(contents.pair_clicks), contents.num_pseudo_pairs) == (20, 35, 5)
    assert contents.product_clicks.tolist() == [i % 3 + 1 for i in range(35)] + [0] * 5
    assert contents.num_images.tolist() == [1, 2] * 20
    assert [shard.records for shard in contents.shards] == [7] * 5 + [5]
    for shard in contents.shards:
        assert shard.num_bytes == (Path(prepared.path) / shard.name).stat().st_size


def test_set_aside_rows_are_grouped(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    rows = [("products", "bad_image")] * 5 + [("qrels", "bad_row")] * 2 + [("products", "no_id")]
    write_rows([BadRow(table, "f", n, f"k{n}", reason, "d") for n, (table, reason) in enumerate(rows)], report(root))
    groups = read_contents(open_prepared(root)).set_aside
    assert {(group.table, group.reason): group.rows for group in groups} == Counter(rows)
    assert [group.rows for group in groups] == [5, 2, 1]
    assert [[row.key for row in group.examples] for group in groups] == [["k0", "k1", "k2"], ["k5", "k6"], ["k7"]]


def test_repeated_products_are_found(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    records = [record(n) for n in range(40)]
    same = {key: records[4][key] for key in ("title", "title_ids", "title_words", "title_keywords", "images")}
    for row in (9, 33):
        records[row] |= same
    records[20]["images"] = records[21]["images"]  # another title
    records[30] |= {**same, "images": [picture(5)]}  # another picture
    for row in (11, 12):
        records[row]["images"] = []  # and none
        records[row] |= {key: value for key, value in same.items() if key != "images"}
    write_shards(root, list(map(serialize_product, records)), 7, "array_record")
    scan = scan_products(open_unchecked(root))
    assert (scan.scanned, scan.repeated, scan.num_unreadable) == (40, 2, 0)
    [group] = scan.groups
    assert (group.count, group.product_ids, group.title) == (3, ["p4", "p9", "p33"], records[4]["title"])
    assert group.image == records[4]["images"][0]
    assert scan_products(open_unchecked(root), max_products=10).repeated == 1


def open_unchecked(root: Path) -> PreparedData:
    """Opens data whose shards were written anew, so that they are not those of the manifest."""
    return PreparedData(str(root), read_manifest(root), root, {})


@pytest.mark.parametrize("storage", ["array_record", "tfrecord"])
def test_damage_is_counted_and_does_not_stop_the_inspection(tmp_path: Path, storage: Storage) -> None:
    root = write_data(tmp_path / "data", storage=storage)
    write_rows([], report(root))
    [shard] = root.glob("*-00002")
    content = bytearray(shard.read_bytes())
    content[content.index(record(15)["images"][0][-60:-20])] ^= 1
    shard.write_bytes(content)
    sampling = dataclasses.replace(SAMPLING, batch_size=120)
    found = inspect(open_prepared(root, checksums=False), sampling, SHAPE, CROP, OPTIONS, count=120, progress=False)
    assert found.scan.num_unreadable == 1
    assert found.scan.unreadable[0].startswith(f"p15, record 1 of {shard.name}: ")
    assert len(found.examples) == 120
    [damaged] = {(e.title, len(e.pictures), e.title_text.num_tokens) for e in found.examples if e.product_id == "p15"}
    assert damaged == ("", 0, 0)
    assert all(e.title and e.pictures for e in found.examples if e.product_id != "p15")


def test_regions_are_counted_and_compared_like_pictures(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    write_rows([], report(root))
    features = [np.full((n % 4, 2), n, np.float16).tobytes() for n in range(40)]
    records = [record(n, images=[], regions=features[n]) for n in range(40)]
    records[7] |= {key: records[6][key] for key in ("title", "title_ids", "title_words", "title_keywords", "regions")}
    write_shards(root, list(map(serialize_product, records)), 7, "array_record")
    manifest = read_manifest(root)
    manifest["options"] |= {"region_width": 2}
    shape = BatchShape(8, 24, (24, 16), num_images=0, num_regions=2)
    data = PreparedData(str(root), manifest, root, {})
    found = inspect(data, SAMPLING, shape, NO_AUGMENT, OPTIONS, count=12, progress=False)
    assert found.contents.has_regions
    assert found.scan.num_regions.tolist() == [2 if n == 7 else n % 4 for n in range(40)]
    assert (found.scan.repeated, found.scan.groups[0].product_ids, found.scan.groups[0].image) == (1, ["p6", "p7"], b"")
    regions = {f"p{n}": min(2, number) for n, number in enumerate(found.scan.num_regions.tolist())}
    assert [(e.num_regions, e.pictures) for e in found.examples] == [
        (regions[e.product_id], []) for e in found.examples
    ]


def test_an_inspection_of_everything(prepared: PreparedData) -> None:
    shape = dataclasses.replace(SHAPE, max_title_tokens=3, max_query_tokens=3)
    found = inspect(prepared, SAMPLING, shape, NO_AUGMENT, OPTIONS, count=5, step=2, progress=False)
    assert (found.titles_cut, found.queries_cut) == (1.0, 1.0)
    assert len(found.examples) == 5
    assert found.speed is not None
    assert found.speed.examples % 12 == 0
    assert 12 <= found.speed.examples <= 240
    assert found.speed.epoch == 40
    lines = {line.split()[0]: line for line in found.text().splitlines()[1:]}
    assert "12.5% nobody clicked" in lines["products"]
    assert lines["pairs"].split()[1] == "35"
    assert "100.0% longer than 3 tokens" in lines["queries"]


def test_the_time_of_an_epoch() -> None:
    speed = InputSpeed(examples=500, seconds=2.0, epoch=10_000)
    assert (speed.examples_per_second, speed.epoch_seconds) == (250.0, 40.0)


def test_without_clicks_queries_from_titles_are_shown_and_without_these_nothing(tmp_path: Path) -> None:
    root = write_data(tmp_path / "data")
    write_rows([], report(root))
    pairs = pd.read_parquet(root / "interactions.parquet")
    pairs.iloc[:0].to_parquet(root / "interactions.parquet")
    made_up = inspect(open_unchecked(root), SAMPLING, SHAPE, CROP, OPTIONS, progress=False)
    assert made_up.examples
    assert all(example.is_made_up for example in made_up.examples)
    assert made_up.speed is not None
    pairs = pd.read_parquet(root / "pseudo_pairs.parquet")
    pairs.iloc[:0].to_parquet(root / "pseudo_pairs.parquet")
    found = inspect(open_unchecked(root), SAMPLING, SHAPE, CROP, OPTIONS, progress=False)
    assert (found.examples, found.speed, found.contents.share_cold) == ([], None, 1.0)
    assert "input" not in found.text()


def test_a_step_before_the_first_is_refused(prepared: PreparedData) -> None:
    with pytest.raises(DataError, match="step=-1 must be at least 0"):
        inspect(prepared, SAMPLING, SHAPE, CROP, OPTIONS, step=-1)
