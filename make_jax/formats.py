"""Which version wrote a run directory or a checkpoint, and whether this one can read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from make_jax import __version__
from make_jax.errors import UserError

# Of run directories and their checkpoints. Raised when files come to mean something else or parameters are named or
# laid out anew, so that older ones are converted or refused; new files and settings alone are no new format.
FORMAT = 1


def written() -> dict[str, Any]:
    """What a record says of the version that wrote it."""
    return {"format": FORMAT, "make_jax": __version__}


def check_format(path: Path, record: Mapping[str, Any]) -> None:
    """Refuse what is in a format that this version does not know; a record without one is from before there were any.

    Raises:
      UserError: names both versions.
    """
    found = record.get("format", FORMAT)
    if found != FORMAT:
        version = record.get("make_jax")
        raise UserError(
            f"{path}: this is in format {found} of make_jax {version}; here is make_jax {__version__}, which reads "
            f"format {FORMAT}; use make_jax {version}"
        )
