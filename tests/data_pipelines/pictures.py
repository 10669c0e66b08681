"""Pictures with something in them, for the tests beside this file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """A smooth colourful picture with an edge in it."""
    rows, columns = np.indices((height, width)) / max(height, width)
    phase = np.random.default_rng(seed).uniform(0, 6, 3)
    waves = np.sin(7 * rows[..., None] + 5 * columns[..., None] + phase)
    pixels = 127 + 90 * waves + 30 * (columns > 0.4)[..., None]
    return Image.fromarray(pixels.astype(np.uint8))


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
