"""Is this encoded picture safe and sound? Sizes are judged from the header, before anything is decoded."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

MAX_BYTES = 20 * 1024 * 1024
MAX_PIXELS = 40_000_000
MIN_SIDE = 4

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_KEPT_AS_THEY_ARE = ("JPEG", "MPO", "PNG")  # MPO: a JPEG with further pictures behind it
_ORIENTATION = 0x0112  # EXIF tag; 1 = upright

# Our own limit is lower than the one this warns about.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class CheckedImage(NamedTuple):
    """A usable picture, JPEG or PNG, or the reason code and detail why there is none."""

    encoded: bytes
    reason: str = ""
    detail: str = ""


def check_image(encoded: bytes) -> CheckedImage:
    """Decodes a picture in full to see that it is sound.

    JPEG and PNG come back as they are. WebP, GIF (first frame), BMP, TIFF and pictures that their EXIF data
    says to turn are encoded again, so that whoever reads them needs JPEG and PNG only.

    Args:
      encoded: a file's content.

    Returns:
      The picture, or reason `image_too_large` (bytes or pixels), `image_too_small` or `undecodable_image`.
    """
    if len(encoded) > MAX_BYTES:
        return CheckedImage(b"", "image_too_large", f"{len(encoded)} bytes, at most {MAX_BYTES} are allowed")
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                return CheckedImage(
                    b"", "image_too_large", f"{width}x{height} pixels, at most {MAX_PIXELS} are allowed"
                )
            if min(width, height) < MIN_SIDE:
                return CheckedImage(b"", "image_too_small", f"{width}x{height} pixels, each side needs {MIN_SIDE}")
            image.load()
            upright = image.getexif().get(_ORIENTATION, 1) == 1
            if image.format in _KEPT_AS_THEY_ARE and upright:
                return CheckedImage(encoded)
            return CheckedImage(_encode_again(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        return CheckedImage(b"", "image_too_large", str(error))
    except UnidentifiedImageError:  # its message holds an address in memory, which no two runs share
        return CheckedImage(b"", "undecodable_image", f"no {', '.join(_FORMATS)}: begins {encoded[:8]!r}")
    # Decoders given hostile bytes raise nearly anything: OSError, SyntaxError, ValueError, struct.error, ...
    except Exception as error:
        return CheckedImage(b"", "undecodable_image", f"{type(error).__name__}: {error}"[:200])


def _encode_again(image: Image.Image) -> bytes:
    lossy = image.format in ("JPEG", "MPO", "WEBP")
    upright = ImageOps.exif_transpose(image)
    buffer = io.BytesIO()
    if upright.has_transparency_data:
        upright.convert("RGBA").save(buffer, "PNG")
    elif lossy:
        upright.convert("RGB").save(buffer, "JPEG", quality=95)
    else:
        upright.convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()
