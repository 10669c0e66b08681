"""Headers say what Pillow and TensorFlow find, whatever else a file holds, and nothing of what is not a picture."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import encode, photo
from PIL import Image

from data_pipelines.host_tensorflow import tf
from data_pipelines.picture_headers import read_header


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@settings(max_examples=30, deadline=None)
@given(size=st.tuples(st.integers(1, 300), st.integers(1, 300)), data=st.data())
def test_reads_the_size(form: str, size: tuple[int, int], data: st.DataObject) -> None:
    options: dict[str, Any] = {}
    if form == "JPEG":
        options = {"progressive": data.draw(st.booleans()), "comment": data.draw(st.binary(max_size=300))}
    mode = data.draw(st.sampled_from(["L", "RGB", "CMYK"] if form == "JPEG" else ["1", "L", "LA", "P", "RGBA"]))
    encoded = encode(Image.new(mode, size), form, **options)
    header = read_header(encoded)
    assert header is not None
    assert (header.kind, header.width, header.height) == (form.lower(), *size)


def test_a_preview_inside_is_not_taken_for_the_picture() -> None:
    exif = Image.Exif()
    exif[0x010E] = "x" * 400
    preview = encode(photo(10, 20), "JPEG")
    encoded = encode(photo(80, 60), "JPEG", exif=exif.tobytes() + preview)
    assert encoded.count(b"\xff\xd8\xff") == 2
    assert read_header(encoded) == ("jpeg", 80, 60)


@pytest.mark.parametrize("between", [b"\xff\xff\xff", b"rubbish", b"\xff\x00\xff\x01"])
def test_what_stands_before_a_marker_is_skipped(between: bytes) -> None:
    encoded = encode(photo(80, 60), "JPEG")
    first = 4 + int.from_bytes(encoded[4:6], "big")  # where the second segment begins
    odd = encoded[:first] + between + encoded[first:]
    assert tf.io.decode_jpeg(odd).shape == (80, 60, 3)
    assert read_header(odd) == ("jpeg", 80, 60)


SOUND = [encode(photo(30, 20), "JPEG"), encode(photo(30, 20), "JPEG", progressive=True)]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SOUND), st.lists(st.tuples(st.integers(0, 699), st.integers(0, 255)), max_size=4))
def test_agrees_with_libjpeg_on_damaged_files(encoded: bytes, changes: list[tuple[int, int]]) -> None:
    """What is decoded is never larger than the header said, or a bomb could go off."""
    damaged = bytearray(encoded)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    try:
        height, width, _ = tf.io.decode_jpeg(bytes(damaged), channels=3).shape
    except (tf.errors.InvalidArgumentError, UnicodeDecodeError):
        return
    assert read_header(bytes(damaged)) == ("jpeg", height, width)


@pytest.mark.parametrize("encoded", [b"", b"\xff\xd8\xff", b"GIF89a" + bytes(99), encode(photo(9, 9), "PNG")[:30]])
def test_other_files_have_none(encoded: bytes) -> None:
    assert read_header(encoded) is None


def test_cut_files_never_say_something_else() -> None:
    for encoded in (*SOUND, encode(photo(30, 20), "PNG")):
        whole = read_header(encoded)
        assert {read_header(encoded[:length]) for length in range(len(encoded))} == {None, whole}
