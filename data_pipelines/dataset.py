"""The prepared data directory: a TFDS dataset of the products, and the tables and tokenizer beside it."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.array_record_shards import ArrayRecordShards
from data_pipelines.errors import DataError
from data_pipelines.manifest import read_manifest, verify_files
from data_pipelines.prepared import DataTables
from data_pipelines.records import product_features
from data_pipelines.remote import copy_small_files, is_remote
from data_pipelines.shards import SPLIT, Shards, Storage, Unreadable
from data_pipelines.tfrecord_shards import TFRecordShards


class PreparedData(DataTables):
    """A verified prepared data directory, whose products are read by row."""

    @property
    def storage(self) -> Storage:
        """The form of the shards."""
        return self.manifest["options"]["storage"]

    @cached_property
    def product_groups(self) -> np.ndarray | None:
        """int32[N], the shard of each product, where shards are streamed; None where any product is read at once."""
        if self.storage == "array_record":
            return None
        lengths = self.shards.lengths
        return np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)

    @cached_property
    def shards(self) -> Shards:
        """The products themselves, read by row."""
        split = tfds.builder_from_directory(self.folder).info.splits[SPLIT]
        reader = ArrayRecordShards if self.storage == "array_record" else TFRecordShards
        return reader(self.path, [Path(path).name for path in split.filepaths], split.shard_lengths)

    def records(self, indices: Iterable[int]) -> list[dict[str, Any]]:
        """Reads products by row to show them: product_id, title, category: str; images: list[bytes]; title_ids.

        Raises:
          DataError: a product cannot be read, naming its shard.
        """
        features = product_features()
        messages = self.shards.read(np.array(list(indices), np.int64))
        return [_shown(features.deserialize_example_np(self._readable(message))) for message in messages]

    def _readable(self, message: bytes | Unreadable) -> bytes:
        if isinstance(message, Unreadable):
            raise DataError(
                f"{self.path}: product row {message.row} cannot be read from shard {message.shard} "
                f"(record {message.record}): {message.reason}; restore that file or run `make-jax prepare` again"
            )
        return message


def open_prepared(path: str | os.PathLike[str], checksums: bool = True) -> PreparedData:
    """Opens a prepared data directory after comparing its files with its manifest.

    A remote directory, such as gs://bucket/data, must hold TFRecord shards: all but these is copied to a temporary
    folder, which the end of the program removes, and the shards are streamed when they are read; of them only the
    sizes are compared.

    Args:
      path: the directory; a remote one as text, or as an `etils.epath.Path`.
      checksums: compare contents too, and not sizes only; to show a few titles, hashing everything is too much.

    Raises:
      DataError: not a prepared data directory, another format version, a missing or changed file, or remote data of
        a form that cannot be streamed.
    """
    name = os.fspath(path)
    if is_remote(name):
        name = name.rstrip("/")
        folder, manifest = copy_small_files(name)
    else:
        folder = Path(name)
        manifest = read_manifest(folder)
        verify_files(folder, manifest, checksums)
    return PreparedData(name, manifest, folder)


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "product_id": record["product_id"].decode(),
        "title": record["title"].decode(),
        "category": record["category"].decode(),
        "images": [bytes(image) for image in record["images"]],
        "title_ids": np.asarray(record["title_ids"], dtype=np.int32),
    }
