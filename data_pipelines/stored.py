"""Reads products of a prepared data directory by row, and says which shard is broken when one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.dataset import SPLIT, PreparedData
from data_pipelines.errors import DataError
from data_pipelines.host_tensorflow import tf
from data_pipelines.product_queries import gather_ragged

_FEATURES = {
    "product_id": tf.io.FixedLenFeature([], tf.string),
    "image": tf.io.FixedLenFeature([], tf.string),
    "title_ids": tf.io.RaggedFeature(tf.int64, row_splits_dtype=tf.int64),
}
_UNREADABLE = (RuntimeError, OSError, tf.errors.InvalidArgumentError)


@dataclass(frozen=True)
class StoredProducts:
    """B products: `product_ids` and encoded `images` (b"" for none), `title_ids` int32[B, T], 0-padded."""

    product_ids: list[str]
    images: list[bytes]
    title_ids: np.ndarray


def read_products(data: PreparedData, rows: np.ndarray, max_title_tokens: int) -> StoredProducts:
    """Reads the products in `rows`, int[B], in that order; rows may repeat.

    Raises:
      DataError: a record cannot be read, naming its shard.
    """
    try:
        parsed = _parse(data, rows)
    except _UNREADABLE as error:
        raise DataError(_describe(data, rows)) from error
    titles = parsed["title_ids"]
    return StoredProducts(
        product_ids=[product_id.decode() for product_id in parsed["product_id"].numpy()],
        images=parsed["image"].numpy().tolist(),
        title_ids=pad_tokens(titles.values.numpy(), titles.row_splits.numpy(), max_title_tokens),
    )


def pad_tokens(values: np.ndarray, splits: np.ndarray, width: int) -> np.ndarray:
    """Lays token sequences under each other.

    Args:
      values: int[total], the sequences end to end.
      splits: int[B + 1], sequence i is `values[splits[i]:splits[i + 1]]`.
      width: T or Q; a longer sequence loses tokens before its last one, which is [SEP].

    Returns:
      int32[B, width], padded with 0.
    """
    starts, ends = splits[:-1], splits[1:]
    tokens = gather_ragged(values.astype(np.int32), starts, ends, width, padding=0)
    longer = ends - starts > width
    tokens[longer, -1] = values[ends[longer] - 1]
    return tokens


def _parse(data: PreparedData, rows: np.ndarray) -> dict[str, Any]:
    # ArrayRecord gives "" for some records of a shard that was cut short; parsing refuses those.
    return tf.io.parse_example(data.serialized(rows.tolist()), _FEATURES)


def _describe(data: PreparedData, rows: np.ndarray) -> str:
    """Says which of the rows is the first that cannot be read, and where it is stored."""
    for row in np.unique(rows):
        try:
            _parse(data, row[None])
        except _UNREADABLE as error:
            reason = "not a product record" if isinstance(error, tf.errors.OpError) else str(error)
            split = tfds.builder_from_directory(data.path).info.splits[SPLIT]
            ends = np.cumsum(split.shard_lengths)
            shard = int(np.searchsorted(ends, row, side="right"))
            return (
                f"{data.path}: product row {row} cannot be read from shard {split.filepaths[shard].name} "
                f"(rows {ends[shard] - split.shard_lengths[shard]}-{ends[shard] - 1}): {reason}; "
                "restore that file or run `make-jax prepare` again"
            )
    return f"{data.path}: product rows could not be read together, though each can on its own; try again"
