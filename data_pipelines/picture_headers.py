"""What the header of a JPEG or PNG file says, read without decoding and without TensorFlow."""

from __future__ import annotations

import struct
from typing import Literal, NamedTuple

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8\xff"

_FILL = 0xFF
_ALONE = {_FILL, 0x00, 0x01, *range(0xD0, 0xD8)}  # no segment follows them
_LAST = {0xD9, 0xDA}  # the end, or the pixels
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # start of frame, of every kind of JPEG


class Header(NamedTuple):
    """A picture's format, and its height and width in pixels as it is stored."""

    kind: Literal["jpeg", "png"]
    height: int
    width: int


def read_header(encoded: bytes) -> Header | None:
    """Reads a picture's header; None for what is neither JPEG nor PNG, or ends within its header."""
    try:
        if encoded.startswith(JPEG):
            return _jpeg_header(encoded)
        if encoded.startswith(PNG):
            width, height, *_ = struct.unpack_from(">IIBBBBBI", encoded, 16)
            return Header("png", height, width)
    except (struct.error, IndexError):
        pass  # cut within the header
    return None


def _jpeg_header(encoded: bytes) -> Header | None:
    """Goes from marker to marker as libjpeg does: whatever stands before one, and bytes that fill, are skipped."""
    position = 2
    while (position := encoded.find(_FILL, position)) >= 0:
        position += 1
        marker = encoded[position]
        if marker in _ALONE:
            continue
        if marker in _LAST:
            return None
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", encoded, position + 4)
            return Header("jpeg", height, width)
        position += 1 + struct.unpack_from(">H", encoded, position + 1)[0]
    return None
