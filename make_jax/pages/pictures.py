"""Pictures on pages, as data URIs."""

from __future__ import annotations

import base64
import io
import warnings

import numpy as np
from PIL import Image, ImageOps

THUMBNAIL = (220, 280)  # pixels: twice the size of a card on the page, for dense screens


def lossless(pixels: np.ndarray) -> str:
    """Pixels, uint8[H, W, 3], as a PNG data URI, to the bit."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return _data_uri("png", buffer)


def thumbnail(image: bytes | None) -> str | None:
    """Re-encode a picture as a small JPEG data URI (at most 220 x 280 px, upright, on white).

    Returns None for a missing picture and for bytes that do not decode.
    """
    if not image:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(image)) as opened:
                opened.thumbnail((2 * max(THUMBNAIL),) * 2)  # lets a JPEG decode at a fraction of its size
                upright = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return None
    upright.thumbnail(THUMBNAIL)
    flat = Image.new("RGB", upright.size, "white")
    flat.paste(upright, mask=upright.getchannel("A"))
    buffer = io.BytesIO()
    flat.save(buffer, "JPEG", quality=82, optimize=True)
    return _data_uri("jpeg", buffer)


def _data_uri(kind: str, buffer: io.BytesIO) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
