"""A checkpoint as files: whole steps, their sizes, and the record of checksums that lies beside the arrays.

```
checkpoints/STEP/default/      the arrays, as orbax writes them
                 make_jax.json format, version and date, and sha256 of the files of the arrays
           /deleted/STEP/      on its way out: what is renamed to here is gone, even if the process dies meanwhile
```
"""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from make_jax.errors import UserError
from make_jax.formats import written
from make_jax.small_files import read_object, write_text

ARRAYS, DELETED = "default", "deleted"
_RECORD = "make_jax.json"
_REMEDY = "this checkpoint cannot be restored; delete its folder to go on from the one before it"


class Saved(NamedTuple):
    """A whole checkpoint; `date` is when it was saved, `size` its bytes, `version` that of make_jax if it is told."""

    step: int
    path: Path
    date: datetime
    size: int
    version: str | None
    has_checksums: bool


def saved_steps(folder: Path) -> list[int]:
    """The steps of the whole checkpoints of a folder, in order."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())


def saved(folder: Path, step: int) -> Saved:
    """What there is to know of a checkpoint without reading its arrays; a damaged record counts as none."""
    path = folder / str(step)
    try:
        record = read_record(path)
        date = datetime.fromisoformat(record["date"])
    except (UserError, KeyError, TypeError, ValueError):
        record, date = {}, datetime.fromtimestamp(path.stat().st_mtime, UTC)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Saved(step, path, date, size, record.get("make_jax"), "sha256" in record)


def seal(path: Path) -> None:
    """Put the record beside the arrays of a checkpoint that is not yet in its place."""
    sums = {file.relative_to(path).as_posix(): _sha256(file) for file in _files(path / ARRAYS)}
    record = written() | {"date": datetime.now(UTC).isoformat(timespec="seconds"), "sha256": sums}
    write_text(path / _RECORD, json.dumps(record, indent=1) + "\n")


def read_record(path: Path) -> dict[str, Any]:
    """The record of a checkpoint; empty for one that is older than records.

    Raises:
      UserError: it is damaged.
    """
    file = path / _RECORD
    return read_object(file, _REMEDY) if file.exists() else {}


def damaged_file(path: Path) -> str | None:
    """What is wrong with the files of a checkpoint, going by their checksums; None if nothing, or there are none."""
    try:
        sums = read_record(path).get("sha256", {})
    except UserError:
        return f"{_RECORD} cannot be read"
    for name, expected in sums.items():
        file = path / name
        if not file.is_file():
            return f"{name} is missing"
        if _sha256(file) != expected:
            return f"{name} is not what was written"
    return None


def remove(folder: Path, step: int) -> None:
    """Remove a checkpoint, at once as far as anybody can see."""
    (folder / DELETED).mkdir(exist_ok=True)
    (folder / str(step)).replace(folder / DELETED / str(step))
    clear_deleted(folder)


def clear_deleted(folder: Path) -> None:
    """Free the space of checkpoints that were removed."""
    shutil.rmtree(folder / DELETED, ignore_errors=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
