"""A directory that is there whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.errors import DataError

_PARTIAL, _REPLACED = ".partial-", ".replaced-"  # followed by the id of the process that uses it


@contextmanager
def atomic_directory(out: Path, refuse: Callable[[Path], str | None]) -> Iterator[Path]:
    """Gives a fresh sibling directory to fill, which becomes `out` when the block ends without an error.

    Killed at any moment, `out` is what it was, the new one, or (for the instant between two renames) absent,
    with the old one beside it, which the next run puts back. That run also removes what dead processes left.

    Args:
      out: the directory to make; its parents are made too. An empty or acceptable one is replaced.
      refuse: why an existing, non-empty directory must not be replaced, None if it may.

    Raises:
      DataError: `out` is a file, or `refuse` says so.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _tidy_up(out)
    _check_replaceable(out, refuse)
    partial = _sibling(out, _PARTIAL)
    partial.mkdir()
    try:
        yield partial
        _check_replaceable(out, refuse)  # it may have appeared meanwhile
        _move_into_place(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _check_replaceable(out: Path, refuse: Callable[[Path], str | None]) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file, not a directory; choose another --out or remove it")
    if any(out.iterdir()) and (reason := refuse(out)):
        raise DataError(f"{out} {reason}; choose another --out or empty it yourself")


def _move_into_place(partial: Path, out: Path) -> None:
    if not out.exists():
        partial.rename(out)
        return
    replaced = _sibling(out, _REPLACED)
    out.rename(replaced)
    try:
        partial.rename(out)
    except BaseException:
        if not out.exists():
            replaced.rename(out)
        raise
    shutil.rmtree(replaced)


def _tidy_up(out: Path) -> None:
    for kind in (_REPLACED, _PARTIAL):
        for path in out.parent.glob(glob.escape(out.name) + kind + "*"):
            if _is_running(path.name.rpartition("-")[2]):
                continue
            if kind == _REPLACED and not out.exists():
                path.rename(out)
            else:
                shutil.rmtree(path)


def _sibling(out: Path, kind: str) -> Path:
    return out.with_name(f"{out.name}{kind}{os.getpid()}")


def _is_running(pid: str) -> bool:
    if not pid.isdigit():
        return True  # not a name of ours
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return int(pid) != os.getpid()
