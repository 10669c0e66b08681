"""The prepared data directory: a TFDS dataset of the products, and the tables and tokenizer beside it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from data_pipelines.array_record_shards import ArrayRecordShards
from data_pipelines.errors import DataError
from data_pipelines.manifest import file_faults, read_manifest
from data_pipelines.prepared import DataTables
from data_pipelines.records import product_features
from data_pipelines.remote import copy_small_files, is_remote
from data_pipelines.shards import SPLIT, Shards, Storage, Unreadable, is_shard
from data_pipelines.tfrecord_shards import TFRecordShards

log = logging.getLogger(__name__)

_SCANNED_AT_ONCE = 1024  # records


class PreparedData(DataTables):
    """A verified prepared data directory, whose products are read by row.

    Attributes:
      damage: the products found unreadable when the data was opened, since their shards are not what was written.
    """

    def __init__(self, path: str, manifest: dict[str, Any], folder: Path, suspects: Mapping[str, DataError]) -> None:
        """Reads suspects only.

        Args:
          path: where the data is.
          manifest: what `folder` was compared with.
          folder: where everything but shards is.
          suspects: names of the shards that differ from the manifest, with the errors that say how.

        Raises:
          DataError: all of such a shard can be read, so it holds something else than was prepared.
        """
        super().__init__(path, manifest, folder)
        self.damage = [gone for name, error in suspects.items() for gone in self._unreadable(name, error)]

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

    def _unreadable(self, shard: str, fault: DataError) -> list[Unreadable]:
        number = self.shards.names.index(shard)
        end = int(self.shards.lengths[: number + 1].sum())
        rows = np.arange(end - self.shards.lengths[number], end)
        if not (self.folder / shard).is_file():  # a pipe of that name would be waited for
            log.warning("%s", fault)
            return [Unreadable(int(row), shard, record, "there is no such file") for record, row in enumerate(rows)]
        found = [
            message
            for part in np.split(rows, range(_SCANNED_AT_ONCE, len(rows), _SCANNED_AT_ONCE))
            for message in self.shards.read(part)
            if isinstance(message, Unreadable)
        ]
        if not found:
            raise fault
        log.warning("%s; %d of its %d records cannot be read", fault, len(found), len(rows))
        return found

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

    A damaged shard is no obstacle to opening: how many of its products may be left out is for the reader to say.

    Raises:
      DataError: not a prepared data directory, another format version, a missing or changed file, or remote data of
        a form that cannot be streamed.
    """
    suspects = {}
    name = os.fspath(path)
    if is_remote(name):
        name = name.rstrip("/")
        folder, manifest = copy_small_files(name)
    else:
        folder = Path(name)
        manifest = read_manifest(folder)
        for file, error in file_faults(folder, manifest, checksums):
            if not is_shard(file):
                raise error
            suspects[file] = error
    return PreparedData(name, manifest, folder, suspects)


def _shown(record: dict[str, Any]) -> dict[str, Any]:
    return {
        "product_id": record["product_id"].decode(),
        "title": record["title"].decode(),
        "category": record["category"].decode(),
        "images": [bytes(image) for image in record["images"]],
        "title_ids": np.asarray(record["title_ids"], dtype=np.int32),
    }
