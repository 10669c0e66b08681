"""Directories that are whole or absent: built beside their place, renamed into it at the end."""

from __future__ import annotations

import json
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from make_jax.errors import UserError


@contextmanager
def atomic_directory(out: str | Path, *, kind: str, marker: str = "manifest.json") -> Iterator[Path]:
    """Yield an empty directory beside `out` to fill; it takes the place of `out` when the block ends well.

    The block must write `marker`, a JSON file whose "kind" is `kind`: it is what allows a later run to
    replace the directory. If the block raises (KeyboardInterrupt too), nothing is left and `out` is as it
    was. What killed processes left behind is cleared up by the next run for the same `out`.

    Raises:
      UserError: `out` is a file, or a non-empty directory that is not of this kind.
      ValueError: the block wrote no marker of this kind.
    """
    out = Path(out).resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    _clear_after_dead_processes(out)
    _check_replaceable(out, kind, marker)
    owner = f"{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
    building = out.with_name(f".{out.name}.building.{owner}")
    building.mkdir()
    try:
        yield building
        if _kind(building / marker) != kind:
            raise ValueError(f"{marker} with kind {kind!r} was not written to {building}")
        _check_replaceable(out, kind, marker)
        _put_in_place(building, out, out.with_name(f".{out.name}.replaced.{owner}"))
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _put_in_place(building: Path, out: Path, replaced: Path) -> None:
    if not out.exists():
        building.rename(out)
        return
    out.rename(replaced)
    try:
        building.rename(out)
    except BaseException:
        replaced.rename(out)
        raise
    shutil.rmtree(replaced)


def _check_replaceable(out: Path, kind: str, marker: str) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; --out names a directory to write: give another name or move the file away")
    found = _kind(out / marker)
    if any(out.iterdir()) and found != kind:
        raise UserError(
            f"{out} is not empty and holds {found or f'no {marker}'} where {kind} would go; "
            "give another --out or empty the directory"
        )


def _kind(marker: Path) -> str | None:
    """The "kind" in a marker file; None if there is no readable one."""
    try:
        content = json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    kind = content.get("kind") if isinstance(content, dict) else None
    return kind if isinstance(kind, str) else None


def _clear_after_dead_processes(out: Path) -> None:
    """Remove half-built siblings, and put back what was being replaced if the replacement never came."""
    for left in [
        p for p in out.parent.iterdir() if p.name.startswith((f".{out.name}.building.", f".{out.name}.replaced."))
    ]:
        host, pid, _ = left.name.removeprefix(f".{out.name}.").split(".", 1)[1].rsplit(".", 2)
        if host != socket.gethostname() or _alive(int(pid)):
            continue
        if left.name.startswith(f".{out.name}.replaced.") and not out.exists():
            left.rename(out)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
