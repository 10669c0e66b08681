"""Batches against the records they were made of, on a small prepared data directory on disk."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data_pipelines.dataset import PreparedData, open_data, write_products
from data_pipelines.decode import AugmentSpec, decode_and_resize
from data_pipelines.errors import DataError
from data_pipelines.input import catalogue_batches, query_batches, row_batches, train_batches
from data_pipelines.manifest import write_manifest
from data_pipelines.order import PairOrder, pair_weights
from data_pipelines.stored import pad_tokens
from data_pipelines.tokenizer import TextTokenizer, train_tokenizer

PRODUCTS, QUERIES, PAIRS = 23, 11, 40
SIZE = (20, 16)
TEXT = {"max_query_tokens": 4, "max_title_tokens": 5, "max_product_queries": 3}
WORDS = [
    "red",
    "blue",
    "green",
    "cotton",
    "silk",
    "shirt",
    "dress",
    "shoe",
    "bag",
    "ring",
    "for",
    "men",
    "women",
]


def picture(seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (5, 4, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    image = Image.fromarray(pixels).resize(
        (int(rng.integers(8, 40)), int(rng.integers(8, 40))), Image.Resampling.BICUBIC
    )
    image.save(buffer, ["PNG", "JPEG"][seed % 2])
    return buffer.getvalue()


def words(rng: np.random.Generator, most: int) -> str:
    return " ".join(rng.choice(WORDS, rng.integers(1, most + 1)))


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    return train_tokenizer(WORDS * 9, vocab_size=200)


@pytest.fixture(scope="module")
def records(tokenizer: TextTokenizer) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    made = []
    for row in range(PRODUCTS):
        title = "" if row == 3 else words(rng, 8)
        made.append(
            {
                "product_id": f"sku-{row}",
                "title": title,
                "category": "",
                "image": b"" if row % 7 == 5 else picture(row),
                "title_ids": tokenizer.encode([title], 512)[0],
            }
        )
    return made


@pytest.fixture(scope="module")
def data(
    tmp_path_factory: pytest.TempPathFactory, records: list[dict[str, Any]], tokenizer: TextTokenizer
) -> PreparedData:
    root = tmp_path_factory.mktemp("prepared") / "DATA"
    write_data(root, records, tokenizer)
    return open_data(root)


def write_data(root: Path, records: list[dict[str, Any]], tokenizer: TextTokenizer) -> None:
    root.mkdir()
    write_products(root, records, max_records_per_shard=8)
    rng = np.random.default_rng(1)
    seen = rng.choice(QUERIES * PRODUCTS, PAIRS, replace=False)
    pairs = {
        "query_index": seen // PRODUCTS,
        "product_index": seen % PRODUCTS,
        "clicks": rng.integers(1, 30, PAIRS),
        "purchases": rng.integers(0, 3, PAIRS),
        "last_day": np.full(PAIRS, -1),
    }
    columns = {name: values.astype(np.int32) for name, values in pairs.items()}
    pq.write_table(pa.table(columns), root / "interactions.parquet")
    texts = [words(rng, 5) for _ in range(QUERIES)]
    queries = pa.table(
        {
            "query": texts,
            "query_key": pa.array(np.arange(QUERIES) // 2, pa.int32()),
            "query_ids": pa.array(tokenizer.encode(texts, 512), pa.list_(pa.int32())),
        }
    )
    pq.write_table(queries, root / "train_queries.parquet")
    ids = pa.table({"product_id": [r["product_id"] for r in records], "category": [""] * len(records)})
    pq.write_table(ids, root / "products.parquet")
    write_manifest(root, {"products": len(records)}, {}, {})


def train(data: PreparedData, **changes: Any) -> Any:
    options: dict[str, Any] = {
        "batch_size": 6,
        "seed": 3,
        "image_size": SIZE,
        "num_steps": 4,
        "popularity_power": 0.75,
        "purchase_weight": 2.0,
        **TEXT,
        **changes,
    }
    return train_batches(data, **options)


def same(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> bool:
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)


def cut(ids: Any, width: int) -> list[int]:
    ids = [int(token) for token in ids]
    ids = ids if len(ids) <= width else [*ids[: width - 1], ids[-1]]
    return ids + [0] * (width - len(ids))


def test_contract(data: PreparedData) -> None:
    with train(data) as batches:
        shapes = {name: (array.shape, array.dtype) for name, array in next(batches).items()}
    assert shapes == {
        "query_ids": ((6, 4), np.int32),
        "title_ids": ((6, 5), np.int32),
        "image": ((6, *SIZE, 3), np.uint8),
        "has_image": ((6,), bool),
        "query_key": ((6,), np.int32),
        "product_key": ((6,), np.int32),
        "product_queries": ((6, 3), np.int32),
    }


def test_training_batches_are_the_records_in_order(data: PreparedData, records: list[dict[str, Any]]) -> None:
    pairs = data.interactions
    order = PairOrder(pair_weights(pairs, 0.75, 2.0), 6, seed=3)
    seen = 0
    for step, batch in enumerate(train(data, num_steps=20)):
        for row, pair in enumerate(order.batch(step)):
            query, product = pairs["query_index"][pair], pairs["product_index"][pair]
            record = records[product]
            assert batch["product_key"][row] == product
            assert batch["query_key"][row] == data.query_keys[query]
            assert batch["query_ids"][row].tolist() == cut(data.query_ids[query], 4)
            assert batch["title_ids"][row].tolist() == cut(record["title_ids"], 5)
            assert batch["has_image"][row] == (record["image"] != b"")
            assert np.array_equal(batch["image"][row], decode_and_resize(record["image"], *SIZE))
            of_product = batch["product_queries"][row]
            assert data.query_keys[query] in of_product or (of_product >= 0).all()  # unless it was cut off
        seen += 1
    assert seen == 20


def test_resuming_needs_only_the_step(data: PreparedData) -> None:
    spec = AugmentSpec(min_scale=0.5, flip=True)
    whole = list(train(data, num_steps=12, augment=spec))
    resumed = list(train(data, start_step=9, num_steps=3, augment=spec, threads=1, prefetch=1))
    assert len(resumed) == 3
    assert all(same(ours, theirs) for ours, theirs in zip(resumed, whole[9:], strict=True))


def test_hosts_share_the_same_global_batch(data: PreparedData) -> None:
    spec = AugmentSpec(min_scale=0.5)
    whole = list(train(data, augment=spec))
    parts = [list(train(data, augment=spec, process_index=host, process_count=3)) for host in range(3)]
    for step, batch in enumerate(whole):
        joined = {name: np.concatenate([part[step][name] for part in parts]) for name in batch}
        assert same(joined, batch)


def test_augmentation_varies_and_follows_the_seed(data: PreparedData) -> None:
    spec = AugmentSpec(min_scale=0.3)
    plain, ours, again = (next(train(data, augment=augment)) for augment in (AugmentSpec(), spec, spec))
    assert np.array_equal(ours["image"], again["image"])
    changed = (ours["image"] != plain["image"]).any(axis=(1, 2, 3))
    assert np.array_equal(changed, plain["has_image"])


def test_what_the_trainer_logs(data: PreparedData) -> None:
    clicked: dict[int, set[int]] = {}
    pairs = data.interactions
    for query, product in zip(pairs["query_index"], pairs["product_index"], strict=True):
        clicked.setdefault(int(product), set()).add(int(data.query_keys[query]))
    batches = train(data, max_product_queries=1)
    assert batches.pairs_per_epoch == PAIRS
    assert batches.share_truncated == sum(len(keys) > 1 for keys in clicked.values()) / len(clicked)
    assert batches.share_truncated > 0


def catalogue(data: PreparedData, **changes: Any) -> list[dict[str, np.ndarray]]:
    options: dict[str, Any] = {"batch_size": 5, "image_size": SIZE, "max_title_tokens": 5, **changes}
    return list(catalogue_batches(data, **options))


@pytest.mark.parametrize(("start", "stop"), [(0, None), (4, 14), (7, 7), (22, 23)])
def test_catalogue_batches(data: PreparedData, records: list[dict[str, Any]], start: int, stop: int | None) -> None:
    batches = catalogue(data, start=start, stop=stop)
    wanted = records[start:stop]
    assert len(batches) == -(-len(wanted) // 5)
    rows = [{name: array[row] for name, array in batch.items()} for batch in batches for row in range(5)]
    for row, record in zip(rows, wanted, strict=False):
        assert row["valid"]
        assert row["product_id"] == record["product_id"]
        assert row["title_ids"].tolist() == cut(record["title_ids"], 5)
        assert row["has_image"] == (record["image"] != b"")
        assert np.array_equal(row["image"], decode_and_resize(record["image"], *SIZE))
    for row in rows[len(wanted) :]:
        assert not row["valid"]
        assert not row["has_image"]
        assert row["product_id"] == ""
        assert not row["title_ids"].any()
        assert not row["image"].any()


def test_raw_rows_give_the_same_batches(
    data: PreparedData, records: list[dict[str, Any]], tokenizer: TextTokenizer
) -> None:
    def rows() -> Iterator[dict[str, Any]]:
        for record in records:
            yield {**record, "title": record["title"] or None, "image": record["image"] or None}

    batches = row_batches(rows(), tokenizer, batch_size=5, image_size=SIZE, max_title_tokens=5)
    for ours, theirs in zip(batches, catalogue(data), strict=True):
        assert same(ours, theirs)


def test_a_bad_image_in_raw_rows(tokenizer: TextTokenizer) -> None:
    images = [b"junk" if row == 7 else None for row in range(9)]
    rows = [{"product_id": f"p{row}", "title": "red", "image": image} for row, image in enumerate(images)]
    batches = row_batches(rows, tokenizer, batch_size=5, image_size=SIZE, max_title_tokens=5, source="new.parquet")
    assert next(batches)["valid"].all()
    with pytest.raises(DataError, match=r"new.parquet: the image of product 'p7' is not a sound JPEG or PNG"):
        next(batches)


def test_query_batches(tokenizer: TextTokenizer) -> None:
    texts = ["red shirt", "blue silk dress for women", "ring", "", "bag"]
    batches = list(query_batches(iter(texts), tokenizer, batch_size=2, max_query_tokens=4))
    ids = np.concatenate([batch["query_ids"] for batch in batches])
    assert ids.dtype == np.int32
    assert np.array_equal(ids[:5], tokenizer.encode_padded(texts, 4))
    assert not ids[5].any()
    assert [batch["valid"].tolist() for batch in batches] == [[True, True], [True, True], [True, False]]


def test_pad_tokens_keeps_the_last() -> None:
    splits = np.array([0, 3, 3, 8])
    tokens = pad_tokens(np.array([2, 9, 3, 2, 5, 6, 7, 3]), splits, 4)
    assert tokens.tolist() == [[2, 9, 3, 0], [0, 0, 0, 0], [2, 5, 6, 3]]


@pytest.mark.parametrize("damage", ["overwritten", "cut short", "removed"])
def test_a_broken_shard_is_named(
    tmp_path: Path, records: list[dict[str, Any]], tokenizer: TextTokenizer, damage: str
) -> None:
    root = tmp_path / "DATA"
    write_data(root, records, tokenizer)
    data = open_data(root)
    shard = sorted(root.glob("*.array_record-*"))[1]
    content = shard.read_bytes()
    shard.unlink()
    if damage == "overwritten":
        shard.write_bytes(content[:100] + bytes(len(content) - 200) + content[-100:])
    elif damage == "cut short":
        shard.write_bytes(content[: len(content) // 2])
    batches = catalogue_batches(data, batch_size=4, image_size=SIZE, max_title_tokens=5)
    assert [next(batches)["product_id"][0] for _ in range(2)] == ["sku-0", "sku-4"]
    with pytest.raises(DataError) as caught:
        next(batches)
    message = str(caught.value)
    assert message.startswith(f"{root}: product row ")
    assert f"{shard.name} (rows 8-15)" in message
    assert "run `make-jax prepare` again" in message
    assert "\n" not in message


def test_a_bad_stored_image_is_named(tmp_path: Path, records: list[dict[str, Any]], tokenizer: TextTokenizer) -> None:
    root = tmp_path / "DATA"
    write_data(root, [*records[:9], {**records[9], "image": records[9]["image"][:50]}], tokenizer)
    with pytest.raises(DataError, match=r"DATA: the image of product 'sku-9' is not a sound JPEG or PNG"):
        catalogue(open_data(root))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_query_tokens": 2}, "max_query_tokens=2"),
        ({"max_title_tokens": 0}, "max_title_tokens=0"),
        ({"max_product_queries": 0}, "max_product_queries=0"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"process_count": 4}, "batch_size=6 cannot be shared evenly by 4 hosts"),
        ({"image_size": (0, 4)}, "image_size"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_sizes_that_cannot_be(data: PreparedData, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        train(data, **changes)


def test_rows_outside_the_catalogue(data: PreparedData) -> None:
    for start, stop in ((-1, 4), (5, 24), (9, 8)):
        with pytest.raises(DataError, match="it has 23 products"):
            catalogue(data, start=start, stop=stop)
    with pytest.raises(DataError, match="batch_size=0"):
        catalogue(data, batch_size=0)
