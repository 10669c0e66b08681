"""Reads TFRecord shards, also straight from object storage: whole, a few in memory at a time, the next ones ahead."""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from mmap import mmap
from threading import Lock

import google_crc32c
import numpy as np

from data_pipelines.host_tensorflow import tf
from data_pipelines.order import WINDOW
from data_pipelines.shards import Shards, reading_threads

AHEAD = 2  # shards fetched before they are needed

_PIECE_BYTES = 4 << 20  # read at a time, so that loading a shard takes little more memory than keeping it
_HEADER = struct.Struct("<QI")  # length of the record, checksum of these 8 bytes
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True)
class _Loaded:
    """A shard in memory: its content, where its sound-looking records begin, and why there are no more."""

    content: mmap
    starts: list[int]
    end: str

    def record(self, number: int) -> bytes | str:
        """The record, or why it cannot be read."""
        if number >= len(self.starts):
            return self.end
        start = self.starts[number]
        begin = start + _HEADER.size
        stop = begin + _HEADER.unpack_from(self.content, start)[0]
        data = self.content[begin:stop]
        (expected,) = _CHECKSUM.unpack_from(self.content, stop)
        found = _checksum(data)
        if found != expected:
            return f"its checksum is {found:08x} instead of {expected:08x}"
        return data


class TFRecordShards(Shards):
    """TFRecord shards, read whole through tf.io.gfile; `WINDOW` + 2 of them stay in memory, the last used."""

    def __init__(self, folder: str, names: Sequence[str], lengths: Sequence[int]) -> None:
        super().__init__(folder, names, lengths)
        self._loaded: OrderedDict[int, Future[_Loaded]] = OrderedDict()
        self._ahead: set[int] = set()  # of these, the ones fetched ahead and not used yet
        self._loaded_lock = Lock()

    def prefetch(self, rows: np.ndarray) -> None:
        """Begins to fetch the shards of these rows, int64[n], two at most that nobody has read from yet."""
        for shard in dict.fromkeys(self.shard_of(rows).tolist()):
            with self._loaded_lock:
                if shard in self._loaded or len(self._ahead) >= AHEAD:
                    continue
                self._ahead.add(shard)
                future = self._place(shard)
            reading_threads().apply_async(self._load, (shard, future))

    def _read_shard(self, shard: int, records: list[int]) -> list[bytes | str]:
        try:
            loaded = self._get(shard)
        except tf.errors.OpError as error:
            return [error.message] * len(records)
        return [loaded.record(record) for record in records]

    def _get(self, shard: int) -> _Loaded:
        with self._loaded_lock:
            self._ahead.discard(shard)
            future = self._loaded.get(shard)
            missing = future is None
            if future is None:
                future = self._place(shard)
            else:
                self._loaded.move_to_end(shard)
        if missing:
            self._load(shard, future)
        return future.result()

    def _place(self, shard: int) -> Future[_Loaded]:
        """Makes room for a shard, with the lock held."""
        future = self._loaded[shard] = Future()
        if len(self._loaded) > WINDOW + AHEAD:
            oldest, _ = self._loaded.popitem(last=False)
            self._ahead.discard(oldest)
        return future

    def _load(self, shard: int, future: Future[_Loaded]) -> None:
        try:
            future.set_result(_parse(_fetch(self._paths[shard])))
        except BaseException as error:
            with self._loaded_lock:  # it may be there the next time
                self._loaded.pop(shard, None)
                self._ahead.discard(shard)
            future.set_exception(error)


def _fetch(path: str) -> mmap:
    """Reads a file into memory of its own, which goes back to the system as soon as the shard is dropped."""
    size = tf.io.gfile.stat(path).length
    content = mmap(-1, max(size, 1))
    with tf.io.gfile.GFile(path, "rb") as file:
        while piece := file.read(min(_PIECE_BYTES, size - content.tell())):
            content.write(piece)
    return content


def _parse(content: mmap) -> _Loaded:
    """Finds the records of a shard; behind a damaged header nothing can be found any more."""
    starts: list[int] = []
    start = 0
    while start + _HEADER.size <= len(content):
        length, expected = _HEADER.unpack_from(content, start)
        if _checksum(content[start : start + 8]) != expected:
            return _Loaded(content, starts, f"the length of record {len(starts)} is damaged")
        stop = start + _HEADER.size + length + _CHECKSUM.size
        if stop > len(content):
            break
        starts.append(start)
        start = stop
    return _Loaded(content, starts, f"the file ends after {len(starts)} records")


def _checksum(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord has it."""
    crc = google_crc32c.value(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
