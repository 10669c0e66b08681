"""The engine: order, errors and threads, on chunks made by hand."""

from __future__ import annotations

import gc
import io
import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.batches import Batches, Chunk
from data_pipelines.errors import DataError

BATCH = 4


def square(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (6, 6), level).save(buffer, "PNG")
    return buffer.getvalue()


def chunk(number: int, images: list[bytes] | None = None) -> Chunk:
    return Chunk(
        product_ids=[f"p{number}-{row}" for row in range(BATCH)],
        images=images or [square((number * BATCH + row) % 256) for row in range(BATCH)],
        arrays={"number": np.full(BATCH, number)},
    )


def batches(chunks: Iterator[Chunk], threads: int | None = None) -> Batches:
    return Batches(chunks, "DATA", BATCH, (6, 6), threads=threads)


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_pixels_meet_their_chunk(threads: int | None) -> None:
    seen = list(batches(map(chunk, range(30)), threads))
    assert [batch["number"][0] for batch in seen] == list(range(30))
    levels = np.concatenate([batch["image"][:, 0, 0, 0] for batch in seen])
    assert np.array_equal(levels, np.arange(30 * BATCH) % 256)
    assert all(batch["has_image"].all() for batch in seen)


def test_no_image() -> None:
    (batch,) = batches(iter([chunk(5, [b"", square(9), b"", b""])]))
    assert batch["has_image"].tolist() == [False, True, False, False]
    assert batch["image"].reshape(BATCH, -1).max(axis=1).tolist() == [0, 9, 0, 0]


def test_a_bad_image_is_named_after_the_good_batches() -> None:
    bad = chunk(2, [square(1), b"", b"GIF89a..", square(1)])
    reader = batches(iter([chunk(0), chunk(1), bad, chunk(3)]))
    assert [next(reader)["number"][0] for _ in range(2)] == [0, 1]
    with pytest.raises(DataError, match=r"DATA: the image of product 'p2-2' .* beginning b'GIF89a..'\)"):
        next(reader)
    assert list(reader) == []


def test_what_reading_raises_comes_through() -> None:
    def chunks() -> Iterator[Chunk]:
        yield chunk(0)
        raise DataError("shard 7 is broken")

    reader = batches(chunks())
    assert next(reader)["number"][0] == 0
    with pytest.raises(DataError, match="shard 7 is broken"):
        next(reader)


def test_sizes() -> None:
    with pytest.raises(DataError, match=r"image_size=\(0, 6\)"):
        Batches(iter([]), "DATA", BATCH, (0, 6))


def threads_alive() -> int:
    return len(os.listdir("/proc/self/task"))


def wait_until(condition: Callable[[], bool]) -> bool:
    for _ in range(100):
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="counts threads in /proc")
@pytest.mark.parametrize("let_go", ["close", "with", "del", "unread"])
def test_no_threads_stay_behind(let_go: str) -> None:
    def start_and_stop() -> None:
        reader = batches(map(chunk, itertools.count()), threads=3)
        if let_go == "unread":
            return
        next(reader)
        if let_go == "with":
            with reader:
                next(reader)
        elif let_go == "close":
            reader.close()
        if let_go != "del":
            assert list(reader) == []

    start_and_stop()  # starts TensorFlow's own pools
    gc.collect()
    before = threads_alive()
    for _ in range(3):
        start_and_stop()
    assert wait_until(lambda: threads_alive() <= before)


def test_reading_stops_soon_after_the_batches_asked_for() -> None:
    read = []

    def chunks() -> Iterator[Chunk]:
        for number in itertools.count():
            read.append(number)
            yield chunk(number)

    with batches(chunks()) as reader:
        for _ in range(3):
            next(reader)
        time.sleep(0.5)  # ample for hundreds of these chunks
    assert len(read) <= 12


LEFT_OPEN = """
import itertools, time
from data_pipelines.batches import Batches, Chunk

def chunks():
    for _ in itertools.count():
        time.sleep(0.02)
        yield Chunk([""] * 4, [b""] * 4, {})

reader = Batches(chunks(), "DATA", 4, (6, 6))
next(reader)
raise SystemExit(7)
"""


def test_a_reader_left_open_does_not_keep_python_from_ending() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LEFT_OPEN],
        cwd=Path(__file__).parents[2],
        timeout=60,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, "", "")
