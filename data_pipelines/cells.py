"""From one cell of a CSV or JSONL file to the value a column wants."""

from __future__ import annotations

import base64
import binascii
from datetime import date
from typing import Any

from data_pipelines.schema import Kind

_EPOCH = date(1970, 1, 1).toordinal()


class BadCellError(Exception):
    """A cell that cannot be used; `reason` is the quarantine's code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def convert(name: str, kind: Kind, value: Any) -> str | float | bytes | None:
    """Converts the cell `value` of column `name`; None and "" mean that there is nothing.

    Raises:
      BadCellError: the value does not fit the column.
    """
    if value is None or value == "":
        return None
    if kind in ("id", "text"):
        return None if value != value else _text(name, value)  # NaN is how pandas writes "nothing" to JSON
    if kind == "bytes":
        return _bytes(name, value)
    return _number(name, value, is_day=kind == "day")


def _text(name: str, value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise BadCellError("bad_row", f"{name} is {type(value).__name__}, not text: {value!r:.80}")
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        readable = text.encode("utf-8", "backslashreplace").decode()
        raise BadCellError("not_utf8", f"{name} is not UTF-8 from character {error.start}: {readable:.80}") from error
    return text


def _number(name: str, value: Any, *, is_day: bool) -> float:
    if isinstance(value, str) and is_day and value.count("-") == 2:
        try:
            return float(date.fromisoformat(value.strip()[:10]).toordinal() - _EPOCH)
        except ValueError as error:
            raise BadCellError("bad_number", f"{name} is no date: {value!r:.80}") from error
    try:
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            raise ValueError
        return float(value)
    except (ValueError, OverflowError) as error:
        raise BadCellError("bad_number", f"{name} is not a number: {value!r:.80}") from error


def _bytes(name: str, value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise BadCellError("undecodable_image", f"{name} is not base64: {value!r:.60}") from error
