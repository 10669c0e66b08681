"""The engine: order, errors and threads, on chunks made by hand."""

from __future__ import annotations

import gc
import io
import itertools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipelines.augmentation import AugmentSpec
from data_pipelines.bad_records import BadRecords
from data_pipelines.batches import Batches, Chunk
from data_pipelines.decode import decode_pictures
from data_pipelines.errors import DataError

BATCH = 4
TOTAL = 1000


def square(level: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (6, 6), level).save(buffer, "PNG")
    return buffer.getvalue()


def chunk(number: int, images: list[list[bytes]] | None = None, bad: dict[int, str] | None = None) -> Chunk:
    rows = number * BATCH + np.arange(BATCH)
    return Chunk(
        product_ids=[f"p{row}" for row in rows],
        rows=rows,
        images=images or [[square(row % 256)] for row in rows.tolist()],
        arrays={"number": np.full(BATCH, number)},
        bad=bad or {},
    )


def batches(chunks: Iterable[Chunk], threads: int | None = None, num_images: int = 1, share: float = 0.01) -> Batches:
    return Batches(chunks, BadRecords("DATA", TOTAL, share), (6, 6), num_images=num_images, threads=threads)


def levels(batch: dict[str, np.ndarray]) -> list[list[int]]:
    """The level of every picture, all of one level each: [B, I]."""
    lowest, highest = batch["image"].min((2, 3, 4)), batch["image"].max((2, 3, 4))
    assert np.array_equal(lowest, highest)
    return lowest.tolist()


@pytest.mark.parametrize("threads", [None, 1, 3])
def test_pixels_meet_their_chunk(threads: int | None) -> None:
    seen = list(batches(map(chunk, range(30)), threads))
    assert [batch["number"][0] for batch in seen] == list(range(30))
    assert np.array_equal(np.concatenate(list(map(levels, seen)))[:, 0], np.arange(30 * BATCH) % 256)
    assert all(batch["has_image"].all() for batch in seen)
    assert seen[0]["image"].shape == (BATCH, 1, 6, 6, 3)


def test_several_images_a_product() -> None:
    images = [[square(1), square(2), square(3)], [], [square(4)], [b"", square(5)]]
    (batch,) = batches([chunk(5, images)], num_images=2)
    assert levels(batch) == [[1, 2], [0, 0], [4, 0], [0, 5]]
    assert batch["has_image"].tolist() == [[True, True], [False, False], [True, False], [False, True]]


def test_groups_do_not_matter_to_what_comes_out() -> None:
    """Hundreds of pictures in groups of several sizes, varied by keys of their own."""
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(150):
        buffer = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    images = [pictures[row : row + row % 3] for row in range(140)]
    keys = np.stack([np.full(140, 3), np.arange(140)], axis=1)
    spec = AugmentSpec(min_scale=0.5, hue=0.2)

    def batch(threads: int) -> dict[str, np.ndarray]:
        one = Chunk([""] * 140, np.arange(140), images, {}, keys)
        return next(Batches([one], BadRecords("DATA", 1), (6, 5), num_images=2, augment=spec, threads=threads))

    first, second = batch(1), batch(50)
    assert np.array_equal(first["image"], second["image"])
    assert np.array_equal(first["has_image"].sum(1), np.arange(140) % 3)
    main, _ = decode_pictures([images[4][0]], 6, 5, augment=spec, keys=keys[4:5])
    assert np.array_equal(first["image"][4, 0], main[0])


def test_pictures_of_a_product_vary_on_their_own() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), np.uint8)).save(buffer, "PNG")
    one = Chunk([""], np.array([0]), [[buffer.getvalue()] * 2], {}, np.array([[3, 5]]))
    batch = next(Batches([one], BadRecords("DATA", 1), (9, 7), num_images=2, augment=AugmentSpec(min_scale=0.3)))
    assert not np.array_equal(batch["image"][0, 0], batch["image"][0, 1])
    assert one.augment_keys is not None
    assert one.augment_keys.tolist() == [[3, 5]]


def test_chunks_without_pictures_pass_as_they_are() -> None:
    regions = np.ones([2, 3, 4], np.float32)
    chunks = (Chunk(["a", "b"], np.arange(2), None, {"image": regions + step}, bad={0: "lost"}) for step in range(3))
    reader = batches(chunks)
    for step, batch in enumerate(reader):
        assert list(batch) == ["image"]
        assert np.array_equal(batch["image"], regions + step)
    assert (step, reader.set_aside) == (2, 1)


def test_bad_pictures_and_records_are_emptied_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    pictures = [[square(1), b"GIF89a.."], [b"x", square(2)], [square(3)], []]
    reader = batches([chunk(0), chunk(1, pictures, bad={3: "lost"}), chunk(1, pictures), chunk(2)], num_images=2)
    seen = list(reader)
    assert [batch["number"][0] for batch in seen] == [0, 1, 1, 2]
    for batch in seen[1:3]:
        assert levels(batch) == [[1, 0], [0, 2], [3, 0], [0, 0]]
        assert batch["has_image"].tolist() == [[True, False], [False, True], [True, False], [False, False]]
    assert reader.set_aside == reader.bad_records.count == 3  # each once, though the chunk came twice
    assert len(caplog.messages) == 3
    assert "product 'p4': the picture is not a sound JPEG or PNG file (8 bytes, beginning b'GIF89a..')" in caplog.text
    assert "product 'p7': lost; it is left out (3 of 1000 products so far)" in caplog.text


def test_too_many_bad_ones_stop_it_after_the_good_batches() -> None:
    bad = [chunk(number, [[square(1)], [], [b"x"], []]) for number in (1, 2)]
    reader = batches([chunk(0), *bad, chunk(3)], share=0.001)
    assert [next(reader)["number"][0] for _ in range(2)] == [0, 1]
    with pytest.raises(
        DataError,
        match=r"DATA: product 'p10': the picture is not .*; 2 of 1000 products cannot be used, "
        r"data.max_bad_share=0.001 allows 1; ",
    ):
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
    assert list(reader) == []


def test_a_reader_that_hangs_is_named() -> None:
    hangs = threading.Event()

    def chunks() -> Iterator[Chunk]:
        yield chunk(0)
        hangs.wait()
        yield chunk(1)

    try:
        reader = Batches(
            chunks(), BadRecords("DATA", 1), (6, 6), stall_seconds=0.3, reading=lambda: "shard 7, records 5-20"
        )
        assert next(reader)["number"][0] == 0
        with pytest.raises(DataError, match=r"DATA: waited 0\.3 seconds for shard 7, records 5-20; .*stall_seconds"):
            next(reader)
        assert list(reader) == []
    finally:
        hangs.set()


def test_closing_wakes_who_waits() -> None:
    hangs, ended = threading.Event(), []

    def chunks() -> Iterator[Chunk]:
        hangs.wait()
        yield chunk(0)

    reader = batches(chunks())
    waiting = threading.Thread(target=lambda: ended.append(list(reader)))
    waiting.start()
    time.sleep(0.1)
    reader.close()
    waiting.join(10)
    hangs.set()
    assert ended == [[]]


@pytest.mark.parametrize("sizes", [{"image_size": (0, 6)}, {"num_images": 0}, {"prefetch": 0}])
def test_sizes(sizes: dict[str, object]) -> None:
    (name, value), *_ = sizes.items()
    with pytest.raises(DataError) as error:
        Batches([], BadRecords("DATA", 1), **({"image_size": (6, 6)} | sizes))  # type: ignore[arg-type]
    assert f"{name}={value}" in str(error.value)


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
import numpy as np
from data_pipelines.bad_records import BadRecords
from data_pipelines.batches import Batches, Chunk

def chunks():
    for _ in itertools.count():
        time.sleep(0.02)
        yield Chunk([""] * 4, np.arange(4), [[]] * 4, {})

reader = Batches(chunks(), BadRecords("DATA", 4), (6, 6))
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
