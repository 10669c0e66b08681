"""Which version wrote a run directory or a checkpoint, and whether this one can read and use it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from make_jax import __version__
from make_jax.errors import UserError

# Of run directories and their checkpoints. Raised when files come to mean something else or parameters are named or
# laid out anew, so that older ones are converted or refused; new files and settings alone are no new format.
FORMAT = 1

_SHOWN = 3  # names in a message


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


def differing_arrays(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """In what stored arrays are not those of a model, both by name as anything with a `shape`; empty if in nothing."""
    different = {
        "missing": here.keys() - there.keys(),
        "not wanted": there.keys() - here.keys(),
        "of another shape": {name for name in here.keys() & there.keys() if here[name].shape != there[name].shape},
    }
    return "; ".join(f"{_named(names)} {what}" for what, names in different.items() if names)


def _named(names: set[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(sorted(names)[:_SHOWN]) + more
