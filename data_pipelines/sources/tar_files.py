"""Reads tar shards from front to back, and tells those that end too early."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Self

from data_pipelines.errors import DataError
from data_pipelines.images import MAX_BYTES


class Member(NamedTuple):
    """A file of a sample.

    Attributes:
      number: of the file in its shard, 1 = first.
      key: the sample's: the path up to the first dot of the name.
      name: what is behind that dot.
      kind: the extension, lower case, with its dot.
      content: None if it has more than MAX_BYTES.
    """

    number: int
    key: str
    name: str
    kind: str
    content: bytes | None


class _Header(tarfile.TarInfo):
    """Tells the end of an archive from a header that is damaged or missing, which tarfile takes for the end too."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the mark of the end
            raise tarfile.ReadError(str(error) if buf else "its end mark is missing") from error


def read_tar(shard: Path, kinds: Sequence[str]) -> Iterator[Member]:
    """The files of these kinds in a shard, plain or compressed; one at a time is in memory.

    Raises:
      DataError: the shard is damaged, or it ends without the mark that a finished one has.
    """
    number = 0
    try:
        with tarfile.open(str(shard), "r|*", tarinfo=_Header) as tar:
            while (header := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # it would remember every member
                number += 1
                folder, _, base = header.name.rpartition("/")
                key, _, name = base.partition(".")
                kind = f".{name.rpartition('.')[2].lower()}"
                if header.isfile() and key and kind in kinds:
                    file = tar.extractfile(header) if header.size <= MAX_BYTES else None
                    content = file.read() if file else None
                    yield Member(number, f"{folder}/{key}".lstrip("./"), name, kind, content)
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{shard} is damaged or unfinished behind file {number} ({error}); copy it again or move it away"
        ) from error
