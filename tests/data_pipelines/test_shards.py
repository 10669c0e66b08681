"""Both forms of shards give back what was written, or say which record is lost and why."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from mmap import mmap
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from prepared_files import messages, record, write_shards

from data_pipelines import array_record_shards, tfrecord_shards
from data_pipelines.array_record_shards import ArrayRecordShards
from data_pipelines.shards import Shards, Storage, Unreadable, is_shard, shard_path, write_shard
from data_pipelines.tfrecord_shards import TFRecordShards

COUNT, PER_SHARD = 20, 6
CONTENTS = messages(COUNT)
both = pytest.mark.parametrize("storage", get_args(Storage))


def open_shards(paths: list[Path], lengths: list[int], storage: Storage) -> Shards:
    reader = ArrayRecordShards if storage == "array_record" else TFRecordShards
    return reader(str(paths[0].parent), [path.name for path in paths], lengths)


@pytest.fixture
def written(tmp_path: Path, storage: Storage) -> tuple[list[Path], Shards]:
    paths = write_shards(tmp_path, CONTENTS, PER_SHARD, storage)
    return paths, open_shards(paths, [6, 6, 6, 2], storage)


@both
def test_tfds_opens_it(tmp_path: Path, storage: Storage) -> None:
    write_shards(tmp_path, CONTENTS, PER_SHARD, storage)
    builder = tfds.builder_from_directory(tmp_path)
    split = builder.info.splits["products"]
    assert (split.num_examples, split.num_shards) == (COUNT, 4)
    assert split.num_bytes == sum(map(len, CONTENTS))
    if storage == "array_record":
        found = list(builder.as_data_source(split="products"))
    else:
        found = list(tfds.as_numpy(builder.as_dataset(split="products", shuffle_files=False)))
    assert len(found) == COUNT
    for number, row in enumerate(found):
        expected = record(number)
        assert row["product_id"].decode() == expected["product_id"]
        assert row["title"].decode() == expected["title"]
        assert list(row["images"]) == expected["images"]
        np.testing.assert_array_equal(row["title_ids"], expected["title_ids"])


@both
def test_rows_in_any_order(written: tuple[list[Path], Shards]) -> None:
    paths, shards = written
    rows = np.array([19, 0, 7, 7, 6, 18, 5])
    assert shards.read(rows) == [CONTENTS[row] for row in rows]
    assert shards.read(np.arange(COUNT)) == CONTENTS
    assert shards.read(np.array([], np.int64)) == []
    assert [shards.locate(row) for row in (0, 5, 6, 19)] == [
        (paths[0].name, 0),
        (paths[0].name, 5),
        (paths[1].name, 0),
        (paths[3].name, 1),
    ]
    assert shards.lengths.tolist() == [6, 6, 6, 2]
    assert shards.shard_of(np.array([6, 0, 19])).tolist() == [1, 0, 3]
    for outside in (-1, COUNT):
        with pytest.raises(IndexError, match=str(outside)):
            shards.read(np.array([0, outside]))


@both
def test_equal_records_give_equal_files(tmp_path: Path, storage: Storage) -> None:
    first, second = (shard_path(tmp_path, index, storage) for index in (0, 1))
    assert write_shard(first, CONTENTS, storage) == (COUNT, sum(map(len, CONTENTS)))
    write_shard(second, iter(messages(COUNT)), storage)
    assert first.read_bytes() == second.read_bytes()
    assert is_shard(first.name)
    assert not is_shard("dataset_info.json")


@both
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_flipped_bit_is_noticed(
    tmp_path_factory: pytest.TempPathFactory, storage: Storage, data: st.DataObject
) -> None:
    """Whatever the bit, a record comes back as it was or not at all, whether the file was open already or not."""
    folder = tmp_path_factory.mktemp("flip")
    paths = write_shards(folder, CONTENTS[:12], 6, storage)
    sound = paths[0].read_bytes()
    opened = open_shards(paths, [6, 6], storage)
    opened.read(np.array([0]))
    used = np.flatnonzero(np.frombuffer(sound, np.uint8))  # most of a small ArrayRecord file is empty
    byte = data.draw(st.sampled_from(used.tolist()) | st.integers(0, len(sound) - 1))
    bit = 8 * byte + data.draw(st.integers(0, 7))
    damaged = bytearray(sound)
    damaged[bit // 8] ^= 1 << bit % 8
    paths[0].write_bytes(damaged)
    for shards in (open_shards(paths, [6, 6], storage), opened):
        found = shards.read(np.arange(12))
        for row, content in enumerate(found):
            if isinstance(content, Unreadable):
                assert (content.row, content.shard, content.record) == (row, paths[0].name, row)
                assert content.reason
                assert "\n" not in content.reason
            else:
                assert content == CONTENTS[row]
    if storage == "tfrecord":
        fresh = open_shards(paths, [6, 6], storage).read(np.arange(6))
        assert [row for row, content in enumerate(fresh) if isinstance(content, Unreadable)] == lost(bit // 8)


def lost(byte: int) -> list[int]:
    """The records of the first shard that damage to this byte costs: one, or after a header all that follow."""
    start = 0
    for number, content in enumerate(CONTENTS[:6]):
        if byte < start + 12:
            return list(range(number, 6))
        start += 16 + len(content)
        if byte < start:
            return [number]
    raise AssertionError(byte)


@both
def test_every_byte_of_a_record_counts(tmp_path: Path, storage: Storage) -> None:
    """A record that is damaged in the middle is lost, and it alone."""
    paths = write_shards(tmp_path, CONTENTS, COUNT, storage)
    content = bytearray(paths[0].read_bytes())
    at = content.index(CONTENTS[3][40:80])
    content[at] ^= 16
    paths[0].write_bytes(content)
    found = open_shards(paths, [COUNT], storage).read(np.arange(COUNT))
    assert [row for row in range(COUNT) if found[row] != CONTENTS[row]] == [3]
    assert isinstance(found[3], Unreadable)


@both
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_a_truncated_shard(tmp_path_factory: pytest.TempPathFactory, storage: Storage, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("cut")
    paths = write_shards(folder, CONTENTS[:12], 6, storage)
    opened = open_shards(paths, [6, 6], storage)
    opened.read(np.array([0]))
    sound = paths[0].read_bytes()
    size = data.draw(st.integers(0, len(sound) - 1))
    os.truncate(paths[0], size)
    for shards in (open_shards(paths, [6, 6], storage), opened):
        found = shards.read(np.arange(12))
        assert found[6:] == CONTENTS[6:12]
        for row in range(6):
            assert isinstance(found[row], Unreadable) or found[row] == CONTENTS[row]
    fresh = open_shards(paths, [6, 6], storage).read(np.arange(6))
    whole = sum(np.cumsum([16 + len(content) for content in CONTENTS[:6]]) <= size) if storage == "tfrecord" else 0
    assert [isinstance(content, Unreadable) for content in fresh] == [row >= whole for row in range(6)]


@both
def test_a_shard_that_vanishes_and_comes_back(written: tuple[list[Path], Shards]) -> None:
    paths, shards = written
    away = paths[1].with_name("away")
    paths[1].rename(away)
    found = shards.read(np.arange(COUNT))
    assert [row for row in range(COUNT) if isinstance(found[row], Unreadable)] == list(range(6, 12))
    for row in range(6, 12):
        lost_one = found[row]
        assert isinstance(lost_one, Unreadable)
        assert lost_one[:3] == (row, paths[1].name, row - 6)
        assert "o such file" in lost_one.reason
    away.rename(paths[1])
    assert shards.read(np.arange(COUNT)) == CONTENTS


@both
def test_many_threads_read_the_same_shards(written: tuple[list[Path], Shards], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_record_shards, "_MAX_OPEN", 2)
    monkeypatch.setattr(tfrecord_shards, "WINDOW", 0)
    _, shards = written

    def read(seed: int) -> bool:
        rows = np.random.default_rng(seed).integers(0, COUNT, 50)
        shards.prefetch(rows[::-1])
        return shards.read(rows) == [CONTENTS[row] for row in rows]

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(100)))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="open files are counted in /proc")
@both
def test_few_files_are_open(tmp_path: Path, storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_record_shards, "_MAX_OPEN", 5)
    paths = write_shards(tmp_path, CONTENTS, 1, storage)
    shards = open_shards(paths, [1] * COUNT, storage)
    for _ in range(2):
        assert shards.read(np.arange(COUNT)) == CONTENTS
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    opened = [link for link in links if link.is_symlink() and str(tmp_path) in os.readlink(link)]
    assert len(opened) <= 5


class Loads:
    """Counts how often each TFRecord shard of one record is loaded."""

    def __init__(self, folder: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: Counter[int] = Counter()
        parse = tfrecord_shards._parse

        def counting(content: mmap) -> object:
            loaded = parse(content)
            self.of[CONTENTS.index(loaded.record(0))] += 1
            return loaded

        monkeypatch.setattr(tfrecord_shards, "_parse", counting)
        self.shards = open_shards(write_shards(folder, CONTENTS[:count], 1, "tfrecord"), [1] * count, "tfrecord")

    def wait(self, total: int) -> None:
        for _ in range(1000):
            if self.of.total() == total:
                return
            time.sleep(0.01)
        raise AssertionError(self.of)


def test_the_last_used_shards_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfrecord_shards, "WINDOW", 3)
    loads = Loads(tmp_path, 7, monkeypatch)
    for row in (0, 1, 2, 3, 4, 0, 1, 2, 3, 4):
        loads.shards.read(np.array([row]))
    assert loads.of == Counter(range(5))
    loads.shards.read(np.array([5]))  # takes the place of 0, the one not used for longest
    loads.shards.read(np.array([1, 2, 3, 4]))
    assert loads.of == Counter(range(6))
    loads.shards.read(np.array([0]))
    assert loads.of == Counter([*range(6), 0])


def test_shards_are_fetched_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads = Loads(tmp_path, 6, monkeypatch)
    loads.shards.prefetch(np.array([3, 3, 1, 0, 2]))
    loads.wait(2)
    loads.shards.prefetch(np.array([3, 1, 0, 2]))  # those two are still waiting to be used
    assert loads.shards.read(np.array([3, 1])) == [CONTENTS[3], CONTENTS[1]]
    assert loads.of == Counter([3, 1])
    loads.shards.prefetch(np.array([3, 1, 0]))
    loads.wait(3)
    assert loads.of == Counter([3, 1, 0])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
@both
def test_what_is_being_read_can_be_asked_for(written: tuple[list[Path], Shards]) -> None:
    """A named pipe blocks whoever opens it until somebody writes to it."""
    paths, shards = written
    assert shards.reading is None
    paths[1].unlink()
    os.mkfifo(paths[1])
    found: list[bytes | Unreadable] = []
    reader = threading.Thread(target=lambda: found.extend(shards.read(np.array([0, 11, 8, 19]))), daemon=True)
    reader.start()
    while shards.reading is None or paths[1].name not in shards.reading:
        time.sleep(0.01)
    assert shards.reading == f"shard {paths[1]}, records 2-5"
    assert reader.is_alive()
    with paths[1].open("wb"):
        pass
    while reader.is_alive():  # a reader may open the pipe more than once
        try:
            os.close(os.open(paths[1], os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            time.sleep(0.01)
    assert [found[0], found[3]] == [CONTENTS[0], CONTENTS[19]]
    assert all(isinstance(content, Unreadable) for content in found[1:3])
    assert shards.reading is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_reader_that_hangs_does_not_keep_the_program_from_ending(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, CONTENTS, 10, "tfrecord")
    paths[0].unlink()
    os.mkfifo(paths[0])
    program = """
import sys, threading, time, numpy as np
from data_pipelines.tfrecord_shards import TFRecordShards
shards = TFRecordShards(sys.argv[1], sys.argv[2:], [10, 10])
threading.Thread(target=shards.read, args=(np.array([3, 13]),), daemon=True).start()
shards.prefetch(np.array([3]))
while shards.reading is None:
    time.sleep(0.01)
print(shards.reading)
"""
    ended = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path), *[path.name for path in paths]],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "records 3-3" in ended.stdout
    assert ended.stderr == ""
