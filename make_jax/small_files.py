"""Small files: JSON objects that are read with errors people can mend, and files that are there whole or not at all."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from make_jax.errors import UserError


def read_object(file: Path, remedy: str, required: Sequence[str] = ()) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
      UserError: it cannot be read, holds something else, or lacks one of the `required` keys; ends with `remedy`.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: this file cannot be read ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(content).__name__}; {remedy}")
    missing = [key for key in required if key not in content]
    if missing:
        raise UserError(f"{file}: {', '.join(missing)} missing; {remedy}")
    return content


def write_text(file: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    write_whole(file, text.encode())


def write_whole(file: Path, content: bytes) -> None:
    """Write a file beside its place, then rename it; several processes may do so at the same time."""
    fresh = file.with_name(f".{file.name}.{uuid.uuid4().hex}")
    try:
        fresh.write_bytes(content)
        fresh.replace(file)
    finally:
        fresh.unlink(missing_ok=True)
