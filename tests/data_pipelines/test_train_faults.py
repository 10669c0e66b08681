"""What goes wrong with prepared data in the middle of training: named, counted, survived or stopped; never silent."""

from __future__ import annotations

import os
import re
import struct
import zlib
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from prepared_files import record, write_data

from data_pipelines.dataset import PreparedData, open_prepared
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, FeedOptions, Sampling
from data_pipelines.input import catalogue_batches, train_batches
from data_pipelines.plans import TrainPlans
from data_pipelines.shards import Storage, shard_path

COUNT, PER_SHARD, BATCH, STEPS = 40, 8, 5, 14  # 35 pairs: two epochs
SHAPE = BatchShape(8, 8, (12, 9), num_images=2)
both = pytest.mark.parametrize("storage", get_args(Storage))
Batch = dict[str, np.ndarray]


def huge_png() -> bytes:
    """A few bytes that a viewer would turn into 30,000 x 30,000 white pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row, packer = b"\0" + b"\xff" * (30_000 // 8), zlib.compressobj(9)
    pixels = b"".join([packer.compress(row * 300) for _ in range(100)] + [packer.flush()])
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def opened(root: Path, storage: Storage, **changes: Any) -> PreparedData:
    return open_prepared(write_data(root / "DATA", COUNT, PER_SHARD, storage, **changes))


def shard_of(data: PreparedData, row: int) -> Path:
    return shard_path(data.folder, row // PER_SHARD, data.storage)


def flip_a_bit(data: PreparedData, row: int) -> None:
    """In the middle of the record of a product, behind the back of who opened it."""
    path, content = shard_of(data, row), record(row)["images"][0][-60:]
    whole = bytearray(path.read_bytes())
    whole[whole.index(content) + 30] ^= 4
    with path.open("r+b") as file:
        file.write(whole)


def options(share: float) -> FeedOptions:
    return FeedOptions(threads=1, prefetch=1, max_bad_share=share)


def train(data: PreparedData, share: float) -> tuple[list[Batch], int]:
    """The batches of two epochs, and how many products were set aside."""
    planned = TrainPlans(data, Sampling(BATCH, seed=0, popularity_power=0.0), SHAPE, 0, 1)
    with train_batches(data, planned, num_steps=STEPS, options=options(share)) as batches:
        return list(batches), batches.set_aside


def shown(batches: list[Batch], row: int) -> list[tuple[list[int], list[bool]]]:
    """Titles and pictures there were of a product, each time that it was drawn."""
    return [
        (batch["title_ids"][at].tolist(), batch["has_image"][at].tolist())
        for batch in batches
        for at in np.flatnonzero(batch["product_key"] == row).tolist()
    ]


def assert_others_are_as_ever(batches: list[Batch], sound: list[Batch], damaged: set[int]) -> None:
    for ours, theirs in zip(batches, sound, strict=True):
        kept = ~np.isin(ours["product_key"], list(damaged))
        for name in ours:
            np.testing.assert_array_equal(ours[name][kept], theirs[name][kept], err_msg=name)
        for name in ("query_ids", "query_key", "product_key", "product_queries"):  # the order does not change
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@both
def test_a_damaged_record_takes_no_part(tmp_path: Path, storage: Storage, caplog: pytest.LogCaptureFixture) -> None:
    data = opened(tmp_path, storage)
    sound, none = train(data, 0.0)
    assert none == 0
    flip_a_bit(data, 11)
    data = open_prepared(data.folder, checksums=False)
    batches, set_aside = train(data, 0.03)
    assert set_aside == 1
    views = shown(batches, 11)
    assert len(views) >= 2
    assert all(view == ([0] * 8, [False, False]) for view in views)
    assert_others_are_as_ever(batches, sound, {11})
    (message,) = caplog.messages  # once, however often it is drawn
    assert message.startswith(f"{data.path}: product 'p11' (record 3 of {shard_of(data, 11).name}): ")
    assert message.endswith("; it is left out (1 of 40 products so far)")


@both
def test_above_the_share_allowed_one_error_names_file_and_record(tmp_path: Path, storage: Storage) -> None:
    data = opened(tmp_path, storage)
    for row in (11, 12, 30):
        flip_a_bit(data, row)
    data = open_prepared(data.folder, checksums=False)
    assert train(data, 3 / COUNT)[1] == 3
    with pytest.raises(DataError) as error:
        train(data, 2 / COUNT)
    message = str(error.value)
    product = re.match(rf"{re.escape(data.path)}: product 'p(\d+)' \(record (\d+) of (\S+)\): ", message)
    assert product is not None
    row = int(product[1])
    assert row in (11, 12, 30)
    assert (int(product[2]), product[3]) == (row % PER_SHARD, shard_of(data, row).name)
    assert message.endswith(
        "; 3 of 40 products cannot be used, data.max_bad_share=0.05 allows 2; restore that file, run `make-jax "
        "prepare` again, or raise data.max_bad_share"
    )
    assert "\n" not in message


@both
def test_damage_found_at_opening_counts_before_it_is_drawn(tmp_path: Path, storage: Storage) -> None:
    data = opened(tmp_path, storage)
    for row in (11, 12):
        flip_a_bit(data, row)
    data = open_prepared(data.folder)
    planned = TrainPlans(data, Sampling(BATCH, seed=0), SHAPE, 0, 1)
    with train_batches(data, planned, num_steps=1, options=options(2 / COUNT)) as batches:
        assert batches.set_aside == 2
    with pytest.raises(DataError, match=r"product 'p12' \(record 4 of .*; 2 of 40 products cannot be used"):
        train_batches(data, planned, num_steps=1, options=options(1 / COUNT))


@both
def test_after_the_error_nothing_more_comes(tmp_path: Path, storage: Storage) -> None:
    data = opened(tmp_path, storage)
    flip_a_bit(data, 11)
    data = open_prepared(data.folder, checksums=False)
    with catalogue_batches(data, SHAPE, batch_size=4, options=options(0.0)) as batches:
        first = [next(batches) for _ in range(2)]
        with pytest.raises(DataError, match=r"product 'p11' \(record 3 of "):
            next(batches)
        with pytest.raises(StopIteration):
            next(batches)
    assert [batch["valid"].all() for batch in first] == [True, True]


@both
def test_in_the_catalogue_a_damaged_record_is_not_valid(tmp_path: Path, storage: Storage) -> None:
    data = opened(tmp_path, storage)
    flip_a_bit(data, 11)
    data = open_prepared(data.folder, checksums=False)
    with catalogue_batches(data, SHAPE, batch_size=16, options=options(0.1)) as batches:
        found = list(batches)
    ids = np.concatenate([batch["product_id"] for batch in found])
    valid = np.concatenate([batch["valid"] for batch in found])
    assert ids.tolist() == [f"p{row}" for row in range(COUNT)] + [""] * 8
    assert np.flatnonzero(~valid).tolist() == [11, *range(COUNT, COUNT + 8)]


@both
def test_pictures_that_cannot_be_decoded_leave_the_title(
    tmp_path: Path, storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    sound, _ = train(opened(tmp_path / "sound", storage), 0.0)
    pictures = {
        11: [record(11)["images"][0], b"not a picture"],
        12: [huge_png()],
        13: [record(13)["images"][0][:200], record(13)["images"][1]],
    }
    data = opened(tmp_path, storage, changes={row: {"images": images} for row, images in pictures.items()})
    batches, set_aside = train(data, 0.1)
    assert set_aside == 3
    there = {11: [True, False], 12: [False, False], 13: [False, True]}
    for row, has_image in there.items():
        views = shown(batches, row)
        assert len(views) >= 2
        assert all(view == ([2, row, row + 1, 3, 0, 0, 0, 0], has_image) for view in views)
    for batch in batches:
        assert not batch["image"][~batch["has_image"]].any()
    assert_others_are_as_ever(batches, sound, set(pictures))
    told = "\n".join(sorted(caplog.messages))
    for row, reason in ((11, "not a sound JPEG or PNG"), (12, "says 30000x30000 pixels"), (13, "not a sound JPEG")):
        assert re.search(rf"'p{row}' \(record {row % 8} of {re.escape(shard_of(data, row).name)}\): .*{reason}", told)
    with pytest.raises(DataError, match="3 of 40 products cannot be used"):
        train(data, 2 / COUNT)


@both
def test_a_shard_cut_short_costs_the_records_behind_the_cut(tmp_path: Path, storage: Storage) -> None:
    data = opened(tmp_path, storage)
    path = shard_of(data, 16)
    sound, _ = train(data, 0.0)
    os.truncate(path, path.stat().st_size // 2)
    data = open_prepared(write_manifest_again(data))
    batches, set_aside = train(data, 0.25)
    lost = {row for row in range(COUNT) for view in shown(batches, row) if not any(view[1])}
    assert set_aside == len(lost) > 0
    assert lost <= set(range(16, 24))
    assert_others_are_as_ever(batches, sound, lost)
    with pytest.raises(DataError, match=rf"of {re.escape(path.name)}\): "):
        train(data, 0.0)


def write_manifest_again(data: PreparedData) -> Path:
    """As if the damage had been there before the checksums were taken."""
    from data_pipelines.manifest import write_manifest

    (data.folder / "manifest.json").unlink()
    write_manifest(data.folder, data.manifest["counts"], {}, data.manifest["options"])
    return data.folder


@both
def test_a_shard_that_vanishes_while_it_is_read(tmp_path: Path, storage: Storage) -> None:
    data = opened(tmp_path, storage)
    sound, _ = train(data, 0.0)
    data = open_prepared(data.folder)
    path = shard_of(data, 16)
    planned = TrainPlans(data, Sampling(BATCH, seed=0, popularity_power=0.0), SHAPE, 0, 1)

    def vanishing(share: float) -> tuple[list[Batch], int]:
        """The shard goes after the first batch; with no reader that keeps it open, as after a restart."""
        with train_batches(data, planned, num_steps=STEPS, options=options(share)) as reader:
            batches = [next(reader)]
            path.unlink()
            del data.__dict__["shards"]
            with train_batches(data, planned, start_step=1, num_steps=STEPS - 1, options=options(share)) as rest:
                return batches + list(rest), rest.set_aside

    content = path.read_bytes()
    batches, set_aside = vanishing(0.25)
    lost = {row for row in range(COUNT) for view in shown(batches[1:], row) if not any(view[1])}
    assert lost == {row for row in range(16, 24) if shown(batches[1:], row)}
    assert set_aside == len(lost) > 2
    assert_others_are_as_ever(batches, sound, lost)
    path.write_bytes(content)
    del data.__dict__["shards"]
    with pytest.raises(DataError, match=rf"of {re.escape(path.name)}\): .*3 of 40 products cannot be used"):
        vanishing(2 / COUNT)
