"""Finds and reads the files of a source: tables, lines of text, folders of pictures."""

from __future__ import annotations

import gzip
import io
import logging
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.errors import DataError
from data_pipelines.images import MAX_BYTES
from data_pipelines.schema import ROW, TableSchema
from data_pipelines.sources.skipped import Skipped
from data_pipelines.tables import read_table

log = logging.getLogger(__name__)

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
MAX_LINE_CHARS = 64 * 1024 * 1024


def find_all(folder: Path, *patterns: str) -> list[Path]:
    """The files that any of the patterns matches in the folder, else in the folders in it; sorted by path."""
    here = {path for pattern in patterns for path in folder.glob(pattern)}
    return sorted(here or {path for pattern in patterns for path in folder.glob(f"*/{pattern}")})


def find_one(folder: Path, name: str) -> Path:
    """The one file of this name in the folder or in a folder in it.

    Raises:
      DataError: there is none, or more than one.
    """
    found = find_all(folder, name)
    if len(found) == 1:
        return found[0]
    what = f"there are {len(found)}: {', '.join(map(str, found[:3]))}" if found else "there is none"
    raise DataError(f"{folder} must hold one {name}, itself or one folder further down; {what}; name another folder")


def chosen(asked: Sequence[str], known: Sequence[str], option: str) -> list[str]:
    """What was asked for by an option, or all there is.

    Raises:
      DataError: something unknown was asked for.
    """
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise DataError(f"{option} {unknown[0]} is unknown; choose from {', '.join(known)}")
    return [name for name in known if name in asked or not asked]


def table_rows(path: Path, table: TableSchema, skipped: Skipped) -> Iterator[dict[str, Any]]:
    """The readable rows of a Parquet, CSV or JSONL file as dictionaries, all columns of `table` in each.

    Raises:
      DataError: the file cannot be read or lacks a column.
    """
    for chunk in read_table(path, table):
        for bad in chunk.bad:
            skipped.take(bad)
        for row in chunk.rows.to_pylist():
            skipped.at(path, row[ROW])
            yield row


def text_lines(path: Path, skipped: Skipped) -> Iterator[str]:
    """The lines of a UTF-8 file, plain or gzipped, without their ends; other bytes become lone surrogates.

    Raises:
      DataError: the file is damaged, or a line is too long to be one.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with io.TextIOWrapper(opened(path, "rb"), "utf-8-sig", errors="surrogateescape", newline="\n") as file:
            number = 0
            while line := file.readline(MAX_LINE_CHARS):
                number += 1
                if len(line) == MAX_LINE_CHARS:
                    raise DataError(f"{path}: line {number} has more than {MAX_LINE_CHARS} characters; is it damaged?")
                skipped.at(path, number)
                yield line.rstrip("\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; it may be damaged or incomplete, copy it again") from error


class PictureFolder:
    """The pictures of a source that come as files.

    Args:
      asked: the folder the user names, if any.
      usual: where such a source has it; it may be absent, then products have no pictures.
      skipped: is told of the pictures that cannot be used.

    Raises:
      DataError: `asked` is not a folder.
    """

    def __init__(self, asked: Path | None, usual: Path, skipped: Skipped) -> None:
        self._folder = asked or usual
        self._skipped = skipped
        self.exists = self._folder.is_dir()
        if asked and not self.exists:
            raise DataError(f"--images {asked} is not a folder; name the folder of the pictures")
        self._warned = False

    def read(self, product_id: str, names: Sequence[str], expected: bool = True) -> bytes:
        """The content of the first of these files that is there, relative to the folder and within it.

        Args:
          product_id: whose picture it is, for the list of what was left out.
          names: where it may be.
          expected: list the picture as missing if it is not there.

        Returns:
          The encoded picture, not looked at; b"" if there is none.
        """
        if not self.exists:
            self._warn()
            return b""
        for name in names:
            if Path(name).is_absolute() or ".." in Path(name).parts:
                continue
            try:
                path = self._folder / name
                if (size := path.stat().st_size) <= MAX_BYTES:
                    return path.read_bytes()
                detail = f"{name} has {size} bytes, at most {MAX_BYTES} are allowed"
                self._skipped.add("pictures", product_id, "image_too_large", detail)
                return b""
            except (OSError, ValueError):  # missing, a folder, NUL in the name
                continue
        if expected:
            self._skipped.add("pictures", product_id, "image_not_found", f"none of {', '.join(names)} can be read")
        return b""

    def _warn(self) -> None:
        if not self._warned:
            log.warning("%s is not there, so products come without pictures; name it with --images", self._folder)
        self._warned = True
