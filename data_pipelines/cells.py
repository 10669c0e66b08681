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


def convert(name: str, kind: Kind, value: Any) -> Any:
    """Converts the cell `value` of column `name` to str, float or lists, as `ARROW_TYPES` of its kind says.

    None and "" mean that there is nothing. Pictures are base64; pictures and paths may come alone or in a list.

    Raises:
      BadCellError: the value does not fit the column.
    """
    if value is None or value == "":
        return None
    if kind in ("number", "day"):
        return _number(name, value, is_day=kind == "day")
    if value != value:  # NaN is how pandas writes "nothing" to JSON
        return None
    if kind == "pictures":
        return _pictures(name, value)
    if kind == "paths":
        return [_text(name, path) for path in (value if isinstance(value, list) else [value]) if path is not None]
    return _regions(name, value) if kind == "regions" else _text(name, value)


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


def _pictures(name: str, value: Any) -> list[bytes]:
    given = [picture for picture in value if picture] if isinstance(value, list) else [value]
    return [
        _decoded(name, picture) if i == 0 else _decoded_or_as_it_is(name, picture) for i, picture in enumerate(given)
    ]


def _decoded(name: str, value: Any) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise BadCellError("undecodable_image", f"{name} is not base64: {value!r:.60}") from error


def _decoded_or_as_it_is(name: str, value: Any) -> bytes:
    """A further picture that is no base64 does not cost the row: the check of pictures finds that it is none."""
    try:
        return _decoded(name, value)
    except BadCellError:
        return repr(value).encode("utf-8", "backslashreplace")


def _regions(name: str, value: Any) -> list[list[float]]:
    try:
        return [[_real(number) for number in region] for region in value]
    except (TypeError, ValueError, OverflowError) as error:
        raise BadCellError("bad_regions", f"{name} is not a list of lists of numbers: {value!r:.60}") from error


def _real(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError
    return float(value)
