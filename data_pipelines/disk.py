"""What a disk raises while a directory is written, in one line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_pipelines.errors import DataError

_FULL = ("No space left on device", "Disk quota exceeded")  # so say Python, Arrow, ArrayRecord and Rust alike


@contextmanager
def disk_errors(out: Path, sources: Sequence[Path]) -> Iterator[None]:
    """Turns errors of the disk that `out` is prepared on, from the tables `sources`, into DataErrors.

    Raises:
      DataError: the disk is full, or cannot be written.
    """
    source_bytes = sum(path.stat().st_size for path in sources)
    try:
        yield
    except DataError:
        raise
    except Exception as error:
        if any(sign in str(error) for sign in _FULL):
            raise DataError(_full(out, source_bytes)) from error
        if isinstance(error, OSError):
            raise DataError(
                f"{out} cannot be written: {error}; choose another --out or mend its permissions"
            ) from error
        raise


def _full(out: Path, source_bytes: int) -> str:
    free = shutil.disk_usage(out.parent).free
    # Checked products and finished shards lie side by side for a while.
    return (
        f"{out}: the disk is full; preparing needs about {2 * source_bytes / 1e6:,.1f} MB plus twice the "
        f"size of images named by path, and {free / 1e6:,.1f} MB are free; make room or choose another --out"
    )
