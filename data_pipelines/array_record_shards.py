"""Reads ArrayRecord shards: any record at any time, from a disk or a mounted bucket."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from threading import Lock

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from data_pipelines.shards import Shards

_MAX_OPEN = 512  # each a file handle, of which a process often has 1024, and the places of its records
_OPTIONS = "readahead_buffer_size:0,max_parallelism:0"
_BUFFER_BYTES = 32768
_ERRORS = (RuntimeError, ValueError, IndexError, OSError)  # so the reader says that a file is damaged or gone
_EMPTY = "the record is empty"  # as some are when the file was cut short while it was open


class ArrayRecordShards(Shards):
    """ArrayRecord shards; the last 512 that were read from stay open."""

    def __init__(self, folder: str, names: Sequence[str], lengths: Sequence[int]) -> None:
        super().__init__(folder, names, lengths)
        self._open: OrderedDict[int, ArrayRecordReader] = OrderedDict()
        self._open_lock = Lock()

    def prefetch(self, rows: np.ndarray) -> None:
        """Does nothing: every record is as near as the next."""

    def _read_shard(self, shard: int, records: list[int]) -> list[bytes | str]:
        try:
            return [content or _EMPTY for content in self._reader(shard).read(records)]  # all or nothing
        except _ERRORS:
            return self._read_each(shard, records)

    def _read_each(self, shard: int, records: list[int]) -> list[bytes | str]:
        """Reads record by record, each time from a newly opened file if the last one failed."""
        contents: list[bytes | str] = []
        for record in records:
            try:
                contents.append(self._reader(shard).read([record])[0] or _EMPTY)
            except _ERRORS as error:
                with self._open_lock:
                    self._open.pop(shard, None)
                contents.append(" ".join(str(error).split()))
        return contents

    def _reader(self, shard: int) -> ArrayRecordReader:
        with self._open_lock:
            if shard in self._open:
                self._open.move_to_end(shard)
                return self._open[shard]
        reader = ArrayRecordReader(self._paths[shard], options=_OPTIONS, file_reader_buffer_size=_BUFFER_BYTES)
        with self._open_lock:
            self._open[shard] = reader
            if len(self._open) > _MAX_OPEN:
                self._open.popitem(last=False)  # closed when the last thread that reads from it lets go of it
        return reader
