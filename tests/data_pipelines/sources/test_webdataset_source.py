"""WebDataset shards, written with the standard library as the format describes them."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from source_tables import Converted, picture

from data_pipelines.errors import DataError
from data_pipelines.sources import tar_files

JPEG = [picture(i) for i in range(4)]


def shard(path: Path, members: dict[str, bytes | str | dict], mode: Any = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            if isinstance(content, dict):
                content = json.dumps(content)
            data = content.encode() if isinstance(content, str) else content
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    return path


def test_samples_become_products_and_clicks(tmp_path: Path):
    shard(
        tmp_path / "in" / "shirts-000000.tar",
        {
            "a/000.2.jpg": JPEG[2],
            "a/000.JPG": JPEG[0],
            "a/000.txt": "Red shirt",
            "a/000.cls": "17",
            "a/000.10.jpg": JPEG[3],
            "b/000.png": picture(5, "PNG"),
            "b/000.json": {"title": "Blue mug", "category": "Mugs", "product_id": 12, "query": ["mug", "blue mug"]},
            "b/000.txt": "a caption",
        },
    )
    shard(tmp_path / "in" / "shirts-000001.tar.gz", {"c.json": {"title": "Hat", "query": "hat"}}, "w:gz")
    made = Converted("webdataset", tmp_path / "in", tmp_path / "out")
    assert made.rows("products") == [
        {"product_id": "a/000", "title": "Red shirt", "category": None, "image": [JPEG[0], JPEG[2], JPEG[3]]},
        {"product_id": "12", "title": "Blue mug", "category": "Mugs", "image": [picture(5, "PNG")]},
        {"product_id": "c", "title": "Hat", "category": None, "image": None},
    ]
    assert [(row["query"], row["product_id"]) for row in made.rows("interactions")] == [
        ("mug", "12"),
        ("blue mug", "12"),
        ("hat", "c"),
    ]
    assert made.skipped("key") == []
    products, quarantine = made.checked()
    assert [product.product_id for product in products] == ["a/000", "12", "c"]
    assert quarantine.bad == []


def test_fields_may_have_other_names(tmp_path: Path):
    shard(tmp_path / "in" / "0.tar", {"x.json": {"sku": "s1", "caption": "Red shirt", "title": "no", "ask": "shirt"}})
    names = ("product_id=sku", "title=caption", "query=ask")
    made = Converted("webdataset", tmp_path / "in", tmp_path / "out", field=names)
    assert made.rows("products")[0]["title"] == "Red shirt"
    assert made.rows("interactions") == [{"query": "shirt", "product_id": "s1", "clicks": 1}]
    with pytest.raises(DataError, match="--field colour=c must be NAME=KEY"):
        Converted("webdataset", tmp_path / "in", tmp_path / "out", field=("colour=c",))


def test_broken_samples_are_listed_and_the_others_kept(tmp_path: Path):
    members: dict[str, Any] = {
        "good.txt": "Red shirt",
        "json.json": "{not json",
        "json.jpg": JPEG[0],
        "list.json": "[1]",
        "latin.txt": "Größe".encode("latin-1"),
        "query.json": {"title": "Mug", "query": {"text": "mug"}},
        "title.json": {"title": ["Mug"]},
        "empty.cls": "0",
        "nothing.json": {},
        "last.txt": "Mug",
    }
    shard(tmp_path / "in" / "0.tar", members)
    made = Converted("webdataset", tmp_path / "in", tmp_path / "out")
    assert list(made.by_id()) == ["good", "last"]
    assert made.skipped("table", "row", "key", "reason") == [
        ("products", "2", "json", "bad_row"),
        ("products", "4", "list", "bad_row"),
        ("products", "5", "latin", "bad_row"),
        ("products", "6", "query", "bad_row"),
        ("products", "7", "title", "bad_row"),
        ("products", "9", "nothing", "no_title_no_image"),
    ]


def test_too_many_and_too_large_pictures_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tar_files, "MAX_BYTES", 1000)
    pictures = {f"p.{i}.jpg": f"picture {i}".encode() for i in reversed(range(18))}
    shard(tmp_path / "in" / "0.tar", {**pictures, "q.jpg": b"x" * 1001, "q.txt": "Mug", "r.txt": "x" * 1001})
    made = Converted("webdataset", tmp_path / "in", tmp_path / "out")
    assert made.by_id()["p"]["image"] == [f"picture {i}".encode() for i in range(16)]
    assert made.by_id()["q"]["image"] is None
    assert made.summary.skipped == {
        ("pictures", "too_many_images"): 2,
        ("pictures", "image_too_large"): 1,
        ("products", "bad_row"): 1,
    }


def damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    # Each of the 8 members takes a header and one block; the end mark fills the rest.
    block = tarfile.BLOCKSIZE
    if how == "inside a member":
        path.write_bytes(content[: 5 * block + 100])
    elif how == "behind a member":
        path.write_bytes(content[: 6 * block])
    elif how == "a damaged header":
        path.write_bytes(content[: 6 * block] + b"\x55" * 40 + content[6 * block + 40 :])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "not a tar":
        path.write_bytes(b"hello" * 1000)


@pytest.mark.parametrize("how", ["inside a member", "behind a member", "a damaged header", "empty", "not a tar"])
def test_an_unfinished_or_damaged_shard_is_named(tmp_path: Path, how: str):
    members: dict[str, Any] = {f"p{i}.txt": "x" * 500 for i in range(8)}
    shard(tmp_path / "in" / "00.tar", members)
    damaged(shard(tmp_path / "in" / "01.tar", members), how)
    with pytest.raises(DataError, match=r"01\.tar is damaged or unfinished behind file \d"):
        Converted("webdataset", tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_unfinished_gzip_shard_is_named(tmp_path: Path):
    path = shard(tmp_path / "in" / "0.tar.gz", {f"p{i}.jpg": picture(i) for i in range(40)}, "w:gz")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"0\.tar\.gz is damaged or unfinished"):
        Converted("webdataset", tmp_path / "in", tmp_path / "out")


def test_members_are_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    shard(tmp_path / "in" / "0.tar", {f"p{i}.txt": "Mug" for i in range(500)})
    remembered, step = [], tarfile.TarFile.next

    def spy(self: tarfile.TarFile) -> Any:
        found = step(self)
        remembered.append(len(self.members))
        return found

    monkeypatch.setattr(tarfile.TarFile, "next", spy)
    assert len(Converted("webdataset", tmp_path / "in", tmp_path / "out").by_id()) == 500
    assert len(remembered) > 500
    assert max(remembered) <= 2
