"""What can go wrong with prepared data while training: found, named, counted, and survived or stopped as asked for."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from prepared_files import messages, record, write_shards

from data_pipelines.array_record_shards import ArrayRecordShards
from data_pipelines.bad_records import BadRecords
from data_pipelines.batches import Batches, Chunk
from data_pipelines.errors import DataError
from data_pipelines.records import serialize_product
from data_pipelines.shards import Shards, Storage, shard_path
from data_pipelines.stored import read_products
from data_pipelines.tfrecord_shards import TFRecordShards

COUNT, PER_SHARD, BATCH = 24, 6, 4
both = pytest.mark.parametrize("storage", get_args(Storage))


class Data:
    """As much of prepared data as reading products takes."""

    def __init__(self, root: Path, storage: Storage) -> None:
        kind: type[Shards] = ArrayRecordShards if storage == "array_record" else TFRecordShards
        lengths = [PER_SHARD] * (COUNT // PER_SHARD)
        self.shards = kind(str(root), [shard_path(root, i, storage).name for i in range(len(lengths))], lengths)
        self.product_ids = np.array([f"p{row}" for row in range(COUNT)], object)


def chunks(data: Data, epochs: int = 1) -> Iterator[Chunk]:
    for first in itertools.chain.from_iterable(range(0, COUNT, BATCH) for _ in range(epochs)):
        rows = np.arange(first, first + BATCH)
        found = read_products(data, rows, max_title_tokens=4, pad_id=0)
        yield Chunk(found.product_ids, rows, found.images, {"title_ids": found.title_ids, "row": rows}, bad=found.bad)


def batches(data: Data, share: float, epochs: int = 1) -> Batches:
    return Batches(chunks(data, epochs), BadRecords("DATA", COUNT, share, data.shards.locate), (6, 6))


def rows_with_pictures(batches: Batches) -> list[int]:
    return [int(row) for batch in batches for row in batch["row"][batch["has_image"][:, 0]]]


def written(root: Path, storage: Storage, **changes: dict[int, bytes]) -> list[Path]:
    contents = messages(COUNT)
    for row, picture in changes.get("pictures", {}).items():
        contents[row] = serialize_product(record(row, images=[picture]))
    return write_shards(root, contents, PER_SHARD, storage)


def flip_a_bit(path: Path, content: bytes) -> None:
    """Inside the given bytes of a file."""
    whole = bytearray(path.read_bytes())
    whole[whole.index(content) + len(content) // 2] ^= 4
    path.write_bytes(whole)


@both
def test_a_flipped_bit_costs_one_product(tmp_path: Path, storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    paths = written(tmp_path, storage)
    flip_a_bit(paths[1], record(8)["images"][0][-60:])
    reader = batches(Data(tmp_path, storage), share=0.05, epochs=2)
    sound = [row for row in range(COUNT) if row != 8]
    assert rows_with_pictures(reader) == sound * 2
    assert reader.set_aside == 1
    (message,) = caplog.messages
    assert message.startswith(f"DATA: product 'p8' (record 2 of {paths[1].name}): ")
    assert message.endswith("; it is left out (1 of 24 products so far)")


@both
def test_none_is_too_many_where_none_is_allowed(tmp_path: Path, storage: Storage) -> None:
    paths = written(tmp_path, storage)
    flip_a_bit(paths[3], record(20)["images"][0][-60:])
    with pytest.raises(DataError) as error:
        list(batches(Data(tmp_path, storage), share=0.0))
    assert str(error.value).startswith(f"DATA: product 'p20' (record 2 of {paths[3].name}): ")
    assert str(error.value).endswith(
        "; 1 of 24 products cannot be used, data.max_bad_share=0 allows 0; restore that file, run `make-jax prepare` "
        "again, or raise data.max_bad_share"
    )


@both
def test_a_shard_that_was_cut_short_stops_it(tmp_path: Path, storage: Storage) -> None:
    paths = written(tmp_path, storage)
    os.truncate(paths[2], paths[2].stat().st_size // 2)
    with pytest.raises(DataError, match=rf"{paths[2].name}\): .* 3 of 24 products cannot be used, .*=0.1 allows 2; "):
        list(batches(Data(tmp_path, storage), share=0.1))


@both
def test_a_shard_that_vanishes_while_training_is_survived_if_asked_for(tmp_path: Path, storage: Storage) -> None:
    paths = written(tmp_path, storage)
    data = Data(tmp_path, storage)
    with batches(data, share=0.25) as reader:
        rows = rows_with_pictures(reader)
    assert rows == list(range(COUNT))
    paths[2].unlink()
    reader = batches(Data(tmp_path, storage), share=0.25)
    assert rows_with_pictures(reader) == [*range(12), *range(18, COUNT)]
    assert reader.set_aside == 6
    with pytest.raises(DataError, match=rf"product 'p16' \(record 4 of {paths[2].name}\): "):
        list(batches(Data(tmp_path, storage), share=0.2))


@both
def test_a_picture_that_cannot_be_used_leaves_the_title(tmp_path: Path, storage: Storage) -> None:
    gigapixels = record(5)["images"][0]
    frame = gigapixels.index(b"\xff\xc0") + 5
    gigapixels = gigapixels[:frame] + (30_000).to_bytes(2) * 2 + gigapixels[frame + 4 :]
    paths = written(tmp_path, storage, pictures={5: gigapixels, 6: b"not a picture"})
    reader = batches(Data(tmp_path, storage), share=0.1)
    titles = {
        int(row): ids.tolist() for batch in reader for row, ids in zip(batch["row"], batch["title_ids"], strict=True)
    }
    assert titles == {row: record(row)["title_ids"].tolist() for row in range(COUNT)}
    assert reader.set_aside == 2
    with pytest.raises(DataError, match=rf"'p5' \(record 5 of {paths[0].name}\): .* says 30000x30000 pixels, at most"):
        list(batches(Data(tmp_path, storage), share=0.0))


HANGS = """
import sys
import numpy as np
from data_pipelines.bad_records import BadRecords
from data_pipelines.batches import Batches, Chunk
from data_pipelines.errors import DataError

def chunks():
    yield Chunk(["p"], np.arange(1), [[]], {})
    open(sys.argv[1], "rb").read()

with Batches(chunks(), BadRecords("DATA", 1), (6, 6), stall_seconds=0.5, reading=lambda: sys.argv[1]) as reader:
    print(next(reader)["has_image"].tolist(), flush=True)
    try:
        next(reader)
    except DataError as error:
        print(error, flush=True)
        raise SystemExit(2)
"""


def test_a_process_whose_reader_hangs_says_so_and_ends(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # opening it to read waits for a writer, who never comes
    ended = subprocess.run(
        [sys.executable, "-c", HANGS, str(pipe)],
        cwd=Path(__file__).parents[2],
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (2, "")
    assert ended.stdout.splitlines() == [
        "[[False]]",
        f"DATA: waited 0.5 seconds for {pipe}; see whether that disk or bucket still answers, or raise "
        "data.stall_seconds",
    ]
