"""The shards that products are stored in: how one is named, written and described, and what reading one is like."""

from __future__ import annotations

import abc
import atexit
from collections.abc import Iterable, Sequence
from functools import cache
from multiprocessing.pool import ThreadPool
from pathlib import Path
from threading import Lock
from typing import Literal, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines.host_tensorflow import tf
from data_pipelines.records import product_features

Storage = Literal["array_record", "tfrecord"]
SPLIT = "products"

_DATASET = "catalogue"
_THREADS = 16  # enough to hide the delays of a mounted bucket


class Unreadable(NamedTuple):
    """A product that could not be read: its row, the shard's file name, the record in it (0 = first), and why."""

    row: int
    shard: str
    record: int
    reason: str


class Shards(abc.ABC):
    """Products stored end to end in shards, read by row; any thread may read.

    Attributes:
      names: the shards' file names.
      lengths: int64[S], how many records each shard has.
    """

    def __init__(self, folder: str, names: Sequence[str], lengths: Sequence[int]) -> None:
        """Opens nothing yet.

        Args:
          folder: where the shards are, local or remote.
          names: their file names.
          lengths: how many records each has.
        """
        self.names = list(names)
        self.lengths = np.asarray(lengths, np.int64)
        self._paths = [f"{folder}/{name}" for name in names]
        self._ends = np.cumsum(self.lengths)
        self._begun: dict[object, str] = {}
        self._lock = Lock()

    @property
    def reading(self) -> str | None:
        """What is being read right now, the longest-running first: "shard X, records 5-20"; None for nothing."""
        with self._lock:
            return next(iter(self._begun.values()), None)

    def shard_of(self, rows: np.ndarray) -> np.ndarray:
        """int64[n]: the number of the shard that each row, int[n], is in.

        Raises:
          IndexError: a row outside the data.
        """
        if len(rows) and not 0 <= np.min(rows) <= np.max(rows) < self._ends[-1]:
            raise IndexError(f"rows {np.min(rows)} to {np.max(rows)} asked for, but there are {self._ends[-1]}")
        return np.searchsorted(self._ends, rows, side="right")

    def locate(self, row: int) -> tuple[str, int]:
        """The shard's file name and the record in it (0 = first) that hold a row."""
        shard = int(self.shard_of(np.array([row]))[0])
        return self.names[shard], int(row - self._ends[shard] + self.lengths[shard])

    def read(self, rows: np.ndarray) -> list[bytes | Unreadable]:
        """Reads products as serialised tf.train.Example messages.

        Args:
          rows: int64[n], in any order; rows may repeat.

        Returns:
          In the order of `rows`, the messages; `Unreadable` in place of those that are damaged or gone.
        """
        rows = np.asarray(rows, np.int64)
        shards = self.shard_of(rows)
        order = np.argsort(shards, kind="stable")
        parts = np.split(order, np.flatnonzero(np.diff(shards[order])) + 1) if len(rows) else []
        found: list[bytes | Unreadable] = [b""] * len(rows)

        def read_part(places: np.ndarray) -> None:
            for place, content in zip(places, self._read_part(int(shards[places[0]]), rows[places]), strict=True):
                found[place] = content

        if len(parts) == 1:
            read_part(parts[0])
        else:
            reading_threads().map(read_part, parts)
        return found

    @abc.abstractmethod
    def prefetch(self, rows: np.ndarray) -> None:
        """Says which rows, int64[n], will be read soon, so that slow storage can be asked in time; never waits."""

    @abc.abstractmethod
    def _read_shard(self, shard: int, records: list[int]) -> list[bytes | str]:
        """Reads records of one shard; in place of a record that cannot be read, the reason."""

    def _read_part(self, shard: int, rows: np.ndarray) -> list[bytes | Unreadable]:
        records = (rows - (self._ends[shard] - self.lengths[shard])).tolist()
        token = object()
        with self._lock:
            self._begun[token] = f"shard {self._paths[shard]}, records {min(records)}-{max(records)}"
        try:
            contents = self._read_shard(shard, records)
        finally:
            with self._lock:
                del self._begun[token]
        return [
            Unreadable(row, self.names[shard], record, content) if isinstance(content, str) else content
            for row, record, content in zip(rows.tolist(), records, contents, strict=True)
        ]


@cache
def reading_threads() -> ThreadPool:
    """The threads that read; unlike those of an executor, one that hangs does not keep the program from ending."""
    threads = ThreadPool(_THREADS)
    atexit.register(threads.terminate)
    return threads


def shard_path(root: Path, index: int, storage: Storage) -> Path:
    """Where shard `index`, 0 = first, of the prepared data in `root` is."""
    return Path(_template(root, storage).sharded_filepath(shard_index=index, num_shards=None))


def is_shard(name: str) -> bool:
    """Whether a file of prepared data is a shard."""
    return name.startswith(f"{_DATASET}-{SPLIT}.")


def write_shard(path: Path, messages: Iterable[bytes], storage: Storage) -> tuple[int, int]:
    """Writes one shard; equal messages give equal files.

    Args:
      path: from `shard_path`.
      messages: serialised records, in order; none is empty.
      storage: the form.

    Returns:
      How many records, and how many bytes they have together.
    """
    # Groups of one, so that each record can be read on its own.
    writer = (
        ArrayRecordWriter(str(path), "group_size:1") if storage == "array_record" else tf.io.TFRecordWriter(str(path))
    )
    records = num_bytes = 0
    for message in messages:
        writer.write(message)
        records += 1
        num_bytes += len(message)
    writer.close()
    return records, num_bytes


def write_dataset_info(root: Path, lengths: Sequence[int], num_bytes: int, storage: Storage) -> None:
    """Describes the shards in `root`, so that `tfds.builder_from_directory(root)` opens them as split "products".

    TFRecord shards open with `as_dataset`, ArrayRecord shards with `as_data_source`.

    Args:
      root: where the shards are.
      lengths: how many records each has.
      num_bytes: of all records together.
      storage: the form.
    """
    template = _template(root, storage)
    split = tfds.core.SplitInfo(
        name=SPLIT, shard_lengths=list(lengths), num_bytes=num_bytes, filename_template=template
    )
    tfds.folder_dataset.write_metadata(
        data_dir=root,
        features=product_features(),
        split_infos=[split],
        filename_template=template,
        check_data=False,  # it would read through tf.data, which ArrayRecord does not offer
        description="Products of a catalogue: text, encoded pictures or region features, tokenised title.",
    )


def _template(root: Path, storage: Storage) -> tfds.core.ShardedFileTemplate:
    return tfds.core.ShardedFileTemplate(
        data_dir=root,
        dataset_name=_DATASET,
        split=SPLIT,
        filetype_suffix=storage,
        # Without their number, which processes that write shards side by side need not know.
        template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_INDEX}",
    )
