"""Work for other processes, in a module that costs them little to import."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

from data_pipelines.errors import DataError


def write_number(item: tuple[Path, int]) -> None:
    """Writes the number, and who did so, to a file of that name."""
    folder, number = item
    (folder / str(number)).write_text(f"{number} {os.getpid()}")


def fail(number: int) -> None:
    """Fails on 1, because of the data, and on 2, because of the disk."""
    if number == 1:
        raise DataError("row 1 is bad; mend it")
    if number == 2:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def die(number: int) -> None:
    """Ends as if memory had run out."""
    os.kill(os.getpid(), signal.SIGKILL)
