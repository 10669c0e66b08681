"""The record of one product in a prepared dataset: what it holds, how it is written, how a batch of them is parsed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.host_tensorflow import tf
from data_pipelines.ragged import Ragged, pad_tokens

if TYPE_CHECKING:
    from data_pipelines.shards import Unreadable

MAX_TITLE_TOKENS = 512

# The second is what Python makes of TensorFlow's complaint when that quotes the record.
_UNPARSABLE = (tf.errors.InvalidArgumentError, UnicodeDecodeError)


def product_features() -> tfds.features.FeaturesDict:
    """The features of a product.

    `images` are encoded files, the main one first; `title_ids`, `title_words` and `title_keywords` are as long as each
    other (at most 512); `regions` is a float16 matrix [R, F] in C order as bytes, b"" for none (F is in the manifest).
    """
    return tfds.features.FeaturesDict(
        {
            "product_id": tfds.features.Text(),
            "title": tfds.features.Text(),
            "category": tfds.features.Text(),
            "images": tfds.features.Sequence(tfds.features.Scalar(dtype=np.object_)),
            "title_ids": tfds.features.Sequence(np.int32),
            "title_words": tfds.features.Sequence(np.int32),
            "title_keywords": tfds.features.Sequence(np.int32),
            "regions": tfds.features.Scalar(dtype=np.object_),
        }
    )


def serialize_product(record: dict[str, Any]) -> bytes:
    """A product as the bytes of a tf.train.Example, always the same ones; see `product_features`.

    TFDS's own serializer gives the same content, takes ten times as long, and leaves the order of the features to
    protobuf, where it differs from process to process.
    """
    feature = {name: _texts([record[name].encode()]) for name in ("product_id", "title", "category")}
    feature |= {name: _numbers(record[name]) for name in ("title_ids", "title_words", "title_keywords")}
    feature |= {"images": _texts(record["images"]), "regions": _texts([record["regions"]])}
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString(deterministic=True)


def _texts(values: Sequence[bytes]) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def _numbers(values: Sequence[int] | np.ndarray) -> tf.train.Feature:
    return tf.train.Feature(int64_list=tf.train.Int64List(value=values))


@dataclass(frozen=True)
class ParsedProducts:
    """B products, parsed.

    Attributes:
      product_ids: B ids.
      images: B lists of encoded pictures, the main one first.
      title_ids: int32[B, T], padded with the tokenizer's padding.
      title_words: int32[B, T], the number of the word that a token belongs to, -1 for special tokens and padding.
      title_keywords: bool[B, T], whether the token belongs to a keyword.
      regions: B matrices as bytes, float16 [R, F], b"" for none.
      bad: why the product at a position could not be read; such a product has no picture, title or regions.
    """

    product_ids: list[str]
    images: list[list[bytes]]
    title_ids: np.ndarray
    title_words: np.ndarray
    title_keywords: np.ndarray
    regions: list[bytes]
    bad: dict[int, str]


def parse_products(messages: Sequence[bytes | Unreadable], max_title_tokens: int, pad_id: int) -> ParsedProducts:
    """Parses B products; one that is damaged comes out empty and leaves the others alone.

    Args:
      messages: B serialised records, or why there is none.
      max_title_tokens: T; a longer title loses tokens before its last one.
      pad_id: what fills shorter titles.
    """
    sound, bad = _set_apart(messages)
    try:
        parsed = _parser()(tf.constant(sound, tf.string))
    except _UNPARSABLE:
        for position, message in enumerate(sound):
            if not _is_product(message):
                sound[position], bad[position] = _nothing(), "it is not the record of a product"
        parsed = _parser()(tf.constant(sound, tf.string))
    pictures = _ragged(parsed["images"])
    files = pictures.values.tolist()
    return ParsedProducts(
        product_ids=[product_id.decode(errors="replace") for product_id in parsed["product_id"].numpy()],
        images=[files[start:end] for start, end in pairwise(pictures.splits.tolist())],
        title_ids=pad_tokens(_ragged(parsed["title_ids"]), max_title_tokens, pad_id),
        title_words=pad_tokens(_ragged(parsed["title_words"]), max_title_tokens, -1),
        title_keywords=pad_tokens(_ragged(parsed["title_keywords"]), max_title_tokens, 0).astype(bool),
        regions=parsed["regions"].numpy().tolist(),
        bad=bad,
    )


def _set_apart(messages: Sequence[bytes | Unreadable]) -> tuple[list[bytes], dict[int, str]]:
    sound, bad = [], {}
    for position, message in enumerate(messages):
        if isinstance(message, bytes) and message:
            sound.append(message)
        else:
            sound.append(_nothing())
            bad[position] = "it is empty" if isinstance(message, bytes) else message.reason
    return sound, bad


def _is_product(message: bytes) -> bool:
    try:
        _parser()(tf.constant([message]))
    except _UNPARSABLE:
        return False
    return True


@cache
def _nothing() -> bytes:
    """The record of a product of which nothing is known."""
    empty: dict[str, Any] = {"images": [], "title_ids": [], "title_words": [], "title_keywords": []}
    return serialize_product({"product_id": "", "title": "", "category": "", "regions": b"", **empty})


@cache
def _parser() -> Any:
    """The parser as a compiled function; called step by step it would cost several times as much."""
    text, numbers = tf.io.FixedLenFeature([], tf.string), tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64)
    features = {
        "product_id": text,
        "images": tf.io.RaggedFeature(tf.string, row_splits_dtype=tf.int64),
        "title_ids": numbers,
        "title_words": numbers,
        "title_keywords": numbers,
        "regions": text,
    }
    parse = tf.function(lambda messages: tf.io.parse_example(messages, features), autograph=False)
    return parse.get_concrete_function(tf.TensorSpec([None], tf.string))


def _ragged(sequences: tf.RaggedTensor) -> Ragged:
    return Ragged(sequences.values.numpy(), sequences.row_splits.numpy())
