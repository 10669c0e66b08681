"""The cache gives the prepared data's batches to the bit, or refuses; on disk it is whole or not there."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from catalogue_files import picture
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from prepared_files import record, title, word_tokenizer, write_data

from data_pipelines import cache_writer
from data_pipelines.augmentation import AugmentSpec
from data_pipelines.cache import CachedData, open_cache
from data_pipelines.cache_writer import write_cache
from data_pipelines.dataset import PreparedData, open_prepared
from data_pipelines.decode import decode_pictures
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, FeedOptions, Sampling
from data_pipelines.input import catalogue_batches, train_batches
from data_pipelines.plans import TrainPlans
from data_pipelines.prepared import ProductData, open_data
from data_pipelines.shards import shard_path
from data_pipelines.title_arrays import TitleOutput
from data_pipelines.tokenizer import load_tokenizer

SIZE, BATCH, COUNT = (10, 8), 8, 40
CACHED = BatchShape(8, 8, SIZE, num_images=2)
CHANGES: dict[int, dict[str, Any]] = {
    3: {"title": "", **title()},
    4: {"images": []},
    6: {"images": [picture(60), picture(61, (9, 30)), picture(62)]},
    8: title(2, *range(20, 40), 3),
}
Batch = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    # Its padding is 1, so that 0 is not taken for granted.
    return open_prepared(
        write_data(tmp_path_factory.mktemp("prepared") / "DATA", changes=CHANGES, tokenizer=word_tokenizer())
    )


@pytest.fixture(scope="module")
def cached(prepared: PreparedData, tmp_path_factory: pytest.TempPathFactory) -> CachedData:
    out = tmp_path_factory.mktemp("cache") / "CACHE"
    assert write_cache(prepared, out, CACHED, progress=False)[:2] == (out, COUNT)
    return open_cache(out)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that even a small catalogue takes several."""
    monkeypatch.setattr(cache_writer, "_BATCH_SIZE", 16)


def train(data: ProductData, shape: BatchShape, steps: int = 3, **options: Any) -> list[Batch]:
    planned = TrainPlans(data, Sampling(BATCH, seed=2, cold_share=0.2), shape, 0, 1)
    with train_batches(data, planned, num_steps=steps, **options) as batches:
        return list(batches)


def catalogue(data: ProductData, shape: BatchShape, **options: Any) -> list[Batch]:
    with catalogue_batches(data, shape, batch_size=12, **options) as batches:
        return list(batches)


def assert_same(ours: list[Batch], theirs: list[Batch]) -> None:
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name, array in mine.items():
            assert array.dtype == other[name].dtype, name
            np.testing.assert_array_equal(array, other[name], err_msg=name)


@settings(deadline=None, max_examples=12)
@given(
    title_tokens=st.integers(3, 30),
    num_images=st.integers(1, 2),
    length_multiple=st.sampled_from([0, 2, 8]),
    step=st.integers(0, 10**6),
)
def test_training_batches_are_those_of_the_prepared_data(
    prepared: PreparedData, cached: CachedData, title_tokens: int, num_images: int, length_multiple: int, step: int
) -> None:
    shape = BatchShape(5, title_tokens, SIZE, num_images, length_multiple=length_multiple)
    titles = TitleOutput(spans=True, mask_share=0.4, tokenizer=load_tokenizer(cached.tokenizer_path))
    ours = train(cached, shape, start_step=step, titles=titles)
    assert ours[0]["image"].shape == (BATCH, num_images, *SIZE, 3)
    assert_same(ours, train(prepared, shape, start_step=step, titles=titles))


@pytest.mark.parametrize("rows", [(0, None), (5, 33), (7, 7)])
def test_catalogue_batches_are_those_of_the_prepared_data(
    prepared: PreparedData, cached: CachedData, rows: tuple[int, int | None]
) -> None:
    for shape in (CACHED, BatchShape(8, 30, SIZE, num_images=1, length_multiple=4)):
        ours = catalogue(cached, shape, start=rows[0], stop=rows[1])
        assert_same(ours, catalogue(prepared, shape, start=rows[0], stop=rows[1]))


@pytest.mark.usefixtures("small_batches")
def test_regions_are_cached_likewise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = {
        number: {"images": [], "regions": rng.normal(size=(number % 5, 6)).astype(np.float16).tobytes()}
        for number in range(COUNT)
    }
    prepared = open_prepared(write_data(tmp_path / "DATA", changes=rows, region_width=6))
    shape = BatchShape(8, 8, SIZE, num_images=0, num_regions=3)
    write_cache(prepared, tmp_path / "CACHE", shape, progress=False)
    cached = open_cache(tmp_path / "CACHE")
    assert (cached.image.shape, cached.image.dtype, cached.image_size) == ((COUNT, 3, 6), np.float32, (0, 0))
    for regions in (3, 2):
        fewer = BatchShape(8, 8, SIZE, num_images=0, num_regions=regions)
        assert_same(train(cached, fewer), train(prepared, fewer))
        assert_same(catalogue(cached, fewer), catalogue(prepared, fewer))
    with pytest.raises(DataError, match="has 3 regions a product, but 4 are asked for; run `make-jax data cache`"):
        train(cached, BatchShape(8, 8, SIZE, num_images=0, num_regions=4))
    with pytest.raises(DataError, match="has region features of width 6, but num_images=1"):
        train(cached, BatchShape(8, 8, SIZE))


def test_other_pictures_than_were_cached_are_refused(cached: CachedData) -> None:
    for shape, asked in (
        (BatchShape(8, 8, (10, 9), num_images=2), r"2 of \(10, 9\) are asked for"),
        (BatchShape(8, 8, SIZE, num_images=3), r"3 of \(10, 8\) are asked for"),
    ):
        message = rf"CACHE has 2 pictures a product of \(10, 8\) pixels, but {asked}; run `make-jax data cache` again"
        with pytest.raises(DataError, match=message):
            train(cached, shape)
        with pytest.raises(DataError, match=message):
            catalogue(cached, shape)
    with pytest.raises(DataError, match="has pictures, but num_images=0 and num_regions=2"):
        train(cached, BatchShape(8, 8, SIZE, num_images=0, num_regions=2))


def test_pictures_that_are_to_be_varied_are_refused(cached: CachedData) -> None:
    for augment, setting in ((AugmentSpec(min_scale=0.8), r"min_scale=0\.8"), (AugmentSpec(flip=True), "flip=True")):
        with pytest.raises(DataError, match=rf"CACHE: its pictures .* cannot be varied, but .*{setting}.* asks for"):
            train(cached, CACHED, augment=augment)


def test_the_tables_are_those_of_the_prepared_data(prepared: PreparedData, cached: CachedData) -> None:
    assert cached.fingerprint == prepared.fingerprint
    assert cached.num_products == prepared.num_products
    assert cached.pad_id == prepared.pad_id == 1
    assert cached.queries == prepared.queries
    np.testing.assert_array_equal(cached.product_ids, prepared.product_ids)
    assert cached.dev is not None
    assert prepared.dev is not None
    assert cached.dev.queries == prepared.dev.queries
    assert cached.product_groups is None
    assert isinstance(open_data(cached.path), CachedData)
    assert isinstance(open_data(prepared.path), PreparedData)


def test_products_can_be_shown_as_the_model_sees_them(cached: CachedData) -> None:
    first, second, without = cached.records([8, 6, 4])
    assert (first["product_id"], first["category"]) == ("p8", record(8)["category"])
    assert first["title_ids"].tolist() == [2, *range(20, 40), 3]
    assert first["title"] == word_tokenizer().decode(range(20, 40))
    pixels = [np.asarray(Image.open(io.BytesIO(image))) for image in second["images"]]
    for shown, stored in zip(pixels, CHANGES[6]["images"][:2], strict=True):
        np.testing.assert_array_equal(shown, decode_pictures([stored], *SIZE)[0][0])
    assert without["images"] == []


@pytest.mark.usefixtures("small_batches")
def test_damaged_products_are_left_out_and_counted_when_the_cache_is_made(tmp_path: Path) -> None:
    root = write_data(tmp_path / "DATA", changes={20: {"images": [b"not a picture"]}})
    path = shard_path(root, 1, "array_record")
    whole = bytearray(path.read_bytes())
    whole[whole.index(record(9)["images"][0][-60:]) + 30] ^= 4
    path.write_bytes(whole)
    prepared, out = open_prepared(root, checksums=False), tmp_path / "CACHE"
    with pytest.raises(DataError, match=r"product 'p9' \(record 2 of catalogue-.*data.max_bad_share=0.001 allows 0"):
        write_cache(prepared, out, CACHED, progress=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["DATA"]
    borne = FeedOptions(max_bad_share=0.1)
    assert write_cache(prepared, out, CACHED, borne, progress=False).set_aside == 2
    cached = open_cache(out)
    assert cached.manifest["counts"]["set_aside"] == 2
    assert np.flatnonzero(~cached.readable).tolist() == [9]
    assert_same(catalogue(cached, CACHED), catalogue(prepared, CACHED, options=borne))
    assert_same(train(cached, CACHED, 9), train(prepared, CACHED, 9, options=borne))


def test_a_catalogue_of_pictures_only(tmp_path: Path) -> None:
    silent = {number: {"title": "", **title()} for number in range(COUNT)}
    prepared = open_prepared(write_data(tmp_path / "DATA", changes=silent))
    write_cache(prepared, tmp_path / "CACHE", CACHED, progress=False)
    assert_same(train(open_cache(tmp_path / "CACHE"), CACHED), train(prepared, CACHED))


@pytest.mark.usefixtures("small_batches")
def test_equal_caches_are_equal_files_and_the_old_one_is_replaced(prepared: PreparedData, tmp_path: Path) -> None:
    def contents(root: Path) -> dict[str, bytes]:
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}

    write_cache(prepared, tmp_path / "one", CACHED, progress=False)
    write_cache(prepared, tmp_path / "two", BatchShape(8, 8, (4, 4)), progress=False)
    assert contents(tmp_path / "one") != contents(tmp_path / "two")
    summary = write_cache(prepared, tmp_path / "two", CACHED, progress=False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert summary.size_bytes == sum(map(len, contents(tmp_path / "two").values()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]


@pytest.mark.parametrize("content", ["precious", "prepared data"])
def test_what_is_no_cache_is_not_replaced(prepared: PreparedData, tmp_path: Path, content: str) -> None:
    out = tmp_path / "out"
    if content == "precious":
        out.mkdir()
        (out / "thesis.txt").write_text(content)
    else:
        write_data(out, 12)
    before = sorted(path.name for path in out.rglob("*"))
    with pytest.raises(DataError, match=f"{out} is not empty and has no manifest.json of kind 'make_jax-cache'"):
        write_cache(prepared, out, CACHED, progress=False)
    assert sorted(path.name for path in out.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["image.npy", "title_ids.npy", "products.parquet", "tokenizer/tokenizer.json"])
def test_a_changed_file_is_refused(cached: CachedData, tmp_path: Path, name: str) -> None:
    root = tmp_path / "CACHE"
    for path in cached.folder.rglob("*"):
        if path.is_file():
            (root / path.relative_to(cached.folder)).parent.mkdir(parents=True, exist_ok=True)
            (root / path.relative_to(cached.folder)).write_bytes(path.read_bytes())
    content = bytearray((root / name).read_bytes())
    content[-3] ^= 1
    (root / name).write_bytes(content)
    for opening in (open_cache, open_data):
        with pytest.raises(DataError, match=f"{root}/{name} has sha256 .*`make-jax data cache`"):
            opening(root)
    (root / name).unlink()
    with pytest.raises(DataError, match=f"{root}/{name} is missing"):
        open_cache(root)


def test_what_is_not_a_cache_is_not_opened_as_one(prepared: PreparedData, cached: CachedData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"says 'make_jax-data' format .*, wanted here is 'make_jax-cache'"):
        open_cache(prepared.folder)
    with pytest.raises(DataError, match=r"says 'make_jax-cache' format .*, wanted here is 'make_jax-data'"):
        open_prepared(cached.path)
    (tmp_path / "manifest.json").write_text(json.dumps({"kind": "other", "format_version": 2}))
    with pytest.raises(DataError, match=r"says 'other' format .*, wanted here is 'make_jax-data' or 'make_jax-cache'"):
        open_data(tmp_path)


def test_reading_past_the_end_or_after_closing_finds_nothing(cached: CachedData) -> None:
    batches = catalogue_batches(cached, CACHED, batch_size=20)
    assert len(list(batches)) == 2
    for _ in range(2):
        with pytest.raises(StopIteration):
            next(batches)
    with catalogue_batches(cached, CACHED, batch_size=20) as batches:
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_an_error_while_reading_ends_it(cached: CachedData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CachedData, "readable", property(lambda _: 1 / 0))
    batches = catalogue_batches(cached, CACHED, batch_size=20)
    with pytest.raises(ZeroDivisionError):
        next(batches)
    with pytest.raises(StopIteration):
        next(batches)


def test_a_disk_that_is_too_small_is_refused_beforehand(
    prepared: PreparedData, small_disk: Callable[[int], Path]
) -> None:
    small = small_disk(16 << 10)
    with pytest.raises(DataError) as error:
        write_cache(prepared, small / "CACHE", CACHED, progress=False)
    assert str(error.value).startswith(f"{small}/CACHE: the cache of 40 products needs 0.0 MB and 0.0 MB are free")
    assert list(small.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_an_error_of_the_disk(
    prepared: PreparedData, small_disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_writer, "_array_bytes", lambda *_: 0)
    tables = sum(path.stat().st_size for path in prepared.folder.rglob("*") if path.suffix in (".parquet", ".json"))
    small = small_disk(tables + (32 << 10))  # room for what is copied, not for the arrays
    with pytest.raises(OSError, match="No space left on device"):
        write_cache(prepared, small / "CACHE", CACHED, progress=False)
    assert list(small.iterdir()) == []
