"""Serialised products come back as they were, and damaged ones empty with the reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.host_tensorflow import tf
from data_pipelines.records import parse_products, product_features, serialize_product
from data_pipelines.shards import Unreadable

PAD, WIDTH = 9, 5
EMPTY: dict[str, Any] = {
    "product_id": "p",
    "title": "",
    "category": "",
    "images": [],
    "title_ids": [],
    "title_words": [],
    "title_keywords": [],
    "regions": b"",
}


def message(**fields: Any) -> bytes:
    return serialize_product({**EMPTY, **fields})


@st.composite
def records(draw: st.DrawFn) -> dict[str, Any]:
    tokens = draw(st.integers(0, 9))
    return {
        **EMPTY,
        "product_id": draw(st.text(max_size=8)),
        "images": draw(st.lists(st.binary(min_size=1, max_size=20), max_size=3)),
        "title_ids": draw(st.lists(st.integers(0, 2**31 - 1), min_size=tokens, max_size=tokens)),
        "title_words": draw(st.lists(st.integers(-1, 40), min_size=tokens, max_size=tokens)),
        "title_keywords": draw(st.lists(st.integers(0, 1), min_size=tokens, max_size=tokens)),
        "regions": draw(st.binary(max_size=8)),
    }


def padded(values: list[int], padding: int) -> list[int]:
    cut = values if len(values) <= WIDTH else [*values[: WIDTH - 1], values[-1]]
    return cut + [padding] * (WIDTH - len(cut))


@settings(max_examples=40, deadline=None)
@given(st.lists(records(), min_size=1, max_size=5))
def test_what_was_written(rows: list[dict[str, Any]]) -> None:
    parsed = parse_products([serialize_product(row) for row in rows], WIDTH, PAD)
    assert parsed.product_ids == [row["product_id"] for row in rows]
    assert parsed.images == [row["images"] for row in rows]
    assert parsed.title_ids.tolist() == [padded(row["title_ids"], PAD) for row in rows]
    assert parsed.title_words.tolist() == [padded(row["title_words"], -1) for row in rows]
    assert parsed.title_keywords.tolist() == [padded(row["title_keywords"], 0) for row in rows]
    assert parsed.regions == [row["regions"] for row in rows]
    assert parsed.bad == {}
    assert (parsed.title_ids.dtype, parsed.title_words.dtype, parsed.title_keywords.dtype) == (
        np.int32,
        np.int32,
        np.bool_,
    )


def test_tfds_serializes_to_the_same_content() -> None:
    features = product_features()
    theirs = tfds.core.example_serializer.ExampleSerializer(features.get_serialized_info())
    for record in (
        EMPTY,
        {**EMPTY, "title": "标题 é", "images": [b"a", b"b"], "title_ids": [2, 9, 3]},
    ):
        expected = theirs.get_tf_example(features.encode_example(record)).SerializeToString(deterministic=True)
        assert serialize_product(record) == expected


def test_equal_records_are_equal_bytes() -> None:
    assert message(title="a", category="b") == serialize_product({**EMPTY, "title": "a", "category": "b"})


def test_damaged_records_leave_the_others_alone() -> None:
    sound = message(product_id="sound", images=[b"picture"], title_ids=[2, 7, 3])
    foreign = tf.train.Example(
        features=tf.train.Features(feature={"label": tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))})
    ).SerializeToString()
    lost = Unreadable(row=4, shard="shard-1", record=0, reason="checksums differ")
    parsed = parse_products([b"", sound, sound[:-3], lost, foreign, b"\xff\xff\xff", sound], WIDTH, PAD)
    assert parsed.bad == {
        0: "it is empty",
        2: "it is not the record of a product",
        3: "checksums differ",
        4: "it is not the record of a product",
        5: "it is not the record of a product",
    }
    for position, product_id in enumerate(parsed.product_ids):
        good = position in (1, 6)
        assert product_id == ("sound" if good else "")
        assert parsed.images[position] == ([b"picture"] if good else [])
        assert parsed.title_ids[position].tolist() == ([2, 7, 3, PAD, PAD] if good else [PAD] * WIDTH)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_flipped_bits_and_cuts_are_survived(data: st.DataObject) -> None:
    """What no checksum caught: it is read as something or set aside, and its neighbour is unharmed."""
    sound = message(product_id="sound", images=[b"picture", b"other"], title_ids=[2, 7, 3])
    damaged = bytearray(sound)
    for bit in data.draw(st.lists(st.integers(0, 8 * len(sound) - 1), min_size=1, max_size=4)):
        damaged[bit // 8] ^= 1 << bit % 8
    cut = data.draw(st.integers(0, len(sound)))
    parsed = parse_products([bytes(damaged[:cut]), sound], WIDTH, PAD)
    assert set(parsed.bad) <= {0}
    assert parsed.product_ids[1] == "sound"
    assert parsed.images[1] == [b"picture", b"other"]
    assert parsed.title_ids.shape == parsed.title_words.shape == (2, WIDTH)
