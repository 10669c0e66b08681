"""A directory that is there whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipelines.errors import DataError

# What a sibling of the directory is for; its name goes on with the host, process and call that made it.
_PARTIAL = "partial"  # being filled
_REPLACED = "replaced"  # whole, and put back if nothing took its place
_REMOVED = "removed"  # perhaps half removed already, so never put back

_at_work: set[str] = set()  # the calls of this process that have not ended


@contextmanager
def atomic_directory(out: Path, refuse: Callable[[Path], str | None]) -> Iterator[Path]:
    """Gives a fresh sibling directory to fill, which becomes `out` when the block ends without an error.

    If the block fails or is interrupted, `out` is as it was and nothing else is left. Killed at any moment, `out`
    is what it was, the new one, or (for the instant between two renames) absent, with the old one beside it, which
    the next run puts back. That run also removes what dead processes of the same host left; processes of other
    hosts, which may share the file system, count as alive.

    Args:
      out: the directory to make; its parents are made too. An empty or acceptable one is replaced; if it is a link,
        then what it points to.
      refuse: why an existing, non-empty directory must not be replaced, None if it may; it goes on with "DIR ...".

    Raises:
      DataError: `out` is a file, or `refuse` says so.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    _tidy_up(out)
    _check_replaceable(out, refuse)
    call = uuid.uuid4().hex
    owner = f"{socket.gethostname()}.{os.getpid()}.{call}"
    partial = _sibling(out, _PARTIAL, owner)
    _at_work.add(call)
    try:
        partial.mkdir()
        yield partial
        _check_replaceable(out, refuse)  # it may have appeared meanwhile
        _move_into_place(partial, out, owner)
    finally:
        _at_work.discard(call)
        _tidy_up(out)


def _check_replaceable(out: Path, refuse: Callable[[Path], str | None]) -> None:
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is a file, not a directory; name another directory or move the file away")
    if any(out.iterdir()) and (reason := refuse(out)):
        raise DataError(f"{out} {reason}; name another directory or empty this one yourself")


def _move_into_place(partial: Path, out: Path, owner: str) -> None:
    """If this fails between the renames, tidying up puts the old directory back."""
    if not out.exists():
        partial.rename(out)
        return
    replaced = _sibling(out, _REPLACED, owner)
    out.rename(replaced)
    partial.rename(out)
    replaced.rename(_sibling(out, _REMOVED, owner))


def _tidy_up(out: Path) -> None:
    """Undo a swap that went only half, then remove the other siblings that nobody works on."""
    for owner in _abandoned(out, _REPLACED):
        with suppress(FileNotFoundError):  # another run may be tidying up too
            _sibling(out, _REPLACED, owner).rename(_sibling(out, _REMOVED, owner) if out.exists() else out)
    for kind in (_PARTIAL, _REMOVED):
        for owner in _abandoned(out, kind):
            shutil.rmtree(_sibling(out, kind, owner), ignore_errors=True)


def _sibling(out: Path, kind: str, owner: str) -> Path:
    return out.with_name(f".{out.name}.{kind}.{owner}")


def _abandoned(out: Path, kind: str) -> list[str]:
    """Owners of the siblings of one kind that ended on this host."""
    host = re.escape(socket.gethostname())
    name = re.compile(rf"{re.escape(f'.{out.name}.{kind}.')}({host}\.(\d{{1,9}})\.([0-9a-f]{{32}}))")
    matches = [match for path in out.parent.iterdir() if (match := name.fullmatch(path.name))]
    return [owner for owner, pid, call in (match.groups() for match in matches) if not _is_at_work(int(pid), call)]


def _is_at_work(pid: int, call: str) -> bool:
    if pid == os.getpid():
        return call in _at_work  # else of an earlier process with this id: in containers ids come again
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
