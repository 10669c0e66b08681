"""What users and machines get wrong: one line, exit code 2, and nothing lost or half-written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from command_line import TINY, call, finish, losses, refused, spawn


def test_k_beyond_the_catalogue_gives_the_catalogue(trained: Path, indexed: Path, embedded: Path) -> None:
    result = call("search", "--run", trained, "--index", indexed, "red dress", "-k", 100_000, "--json")
    found = [hit["product_id"] for hit in json.loads(result.stdout)["results"]]
    assert sorted(found) == sorted(pq.read_table(embedded)["product_id"].to_pylist())


def test_nonsense_searches_are_refused(trained: Path, indexed: Path, tmp_path: Path) -> None:
    refused(call("search", "--run", trained, "--index", indexed, " "), "query is empty")
    refused(call("search", "--run", trained, "--index", indexed, "dress", "-k", 0), "k is 0")
    refused(call("search", "--run", tmp_path, "--index", indexed, "dress"), "no run here")
    refused(call("search", "--run", trained, "--index", tmp_path, "dress"), "not an index")


def test_a_tampered_index_is_refused(trained: Path, indexed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "index"
    shutil.copytree(indexed, copy)
    content = bytearray((copy / "vectors.npy").read_bytes())
    content[200] ^= 1
    (copy / "vectors.npy").write_bytes(bytes(content))
    refused(call("search", "--run", trained, "--index", copy, "dress"), "vectors.npy", "sha256")


def test_another_models_run_is_refused(tiny_data: Path, trained: Path, indexed: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    options = ("--set", "training.steps=2", "--set", "model.fusion.kind=mean")
    result = call("train", TINY, "--data", tiny_data, "--workdir", other, *options)
    assert result.exit_code == 0, (result.output, result.exception)
    refused(call("search", "--run", other, "--index", indexed, "dress"), "model")
    line = refused(call("train", TINY, "--data", tiny_data, "--workdir", other), "another model")
    assert "model.fusion.kind" in line or "training.steps" in line


def test_training_refuses_bad_settings_before_it_begins(tiny_data: Path, tmp_path: Path) -> None:
    train = ("train", TINY, "--data", tiny_data, "--workdir", tmp_path / "run")
    refused(call(*train, "--set", "training.stepz=3"), "training.stepz", "training.steps")
    refused(call(*train, "--set", "training.batch_size=12"), "12", "8")
    refused(call(*train, "--set", "model.side.columns=brand"), "'brand'", "'product_id' and 'category'")
    refused(call("train", TINY, "--data", tmp_path, "--workdir", tmp_path / "run"), str(tmp_path))
    refused(call("train", tmp_path / "no.py", "--data", tiny_data, "--workdir", tmp_path / "run"), "no.py")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_catalogue_without_clicks_or_made_up_queries_cannot_be_trained_on(tiny_tables, tmp_path: Path) -> None:
    data = tmp_path / "data"
    command = ("prepare", "--products", tiny_tables.products, "--pseudo-queries", 0, "--out", data)
    assert call(*command).exit_code == 0
    refused(call("train", TINY, "--data", data, "--workdir", tmp_path / "run"), "no clicks", "--interactions")
    assert not (tmp_path / "run").exists()


def test_a_corrupted_shard_is_refused(tiny_data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(tiny_data, copy)
    shard = next(copy.glob("*.array_record-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(bytes(content))
    refused(call("train", TINY, "--data", copy, "--workdir", tmp_path / "run"), shard.name)


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("p.parquet", b"not parquet at all", ["p.parquet"]),
        ("p.csv", b"product_id,name\n1,shirt\n", ["p.csv", "title"]),
        ("p.csv", b"product_id,title\n", ["empty"]),
        ("p.xlsx", b"", ["p.xlsx"]),
    ],
)
def test_bad_tables_leave_nothing_behind(tmp_path: Path, name: str, content: bytes, parts: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    refused(call("prepare", "--products", tmp_path / name, "--out", tmp_path / "data"), *parts)
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_products_without_title_or_picture_are_embedded(trained: Path, tmp_path: Path) -> None:
    products = tmp_path / "p.csv"
    products.write_text("product_id,title,image_path\n1,red dress,\n2,blue shirt,\n")
    out = tmp_path / "e.parquet"
    result = call("embed", "--run", trained, "--products", products, "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    table = pq.read_table(out)
    assert table["weight_text"].to_pylist() == [1, 1]
    assert table["weight_image"].to_pylist() == [0, 0]


def test_bad_rows_are_set_aside_when_embedding(trained: Path, tmp_path: Path) -> None:
    products = tmp_path / "p.csv"
    products.write_text("product_id,title\n" + "".join(f"{i},red dress {i}\n" for i in range(40)) + "40,\n")
    out = tmp_path / "e.parquet"
    result = call("embed", "--run", trained, "--products", products, "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    assert pq.read_table(tmp_path / "e.parquet.quarantine.parquet")["reason"].to_pylist() == ["no_title_no_image"]
    assert len(pq.read_table(out)) == 40
    refused(
        call("embed", "--run", trained, "--products", products, "--out", out, "--max-bad-share", 0), "no_title_no_image"
    )


def test_a_full_disk_is_one_line(
    trained: Path, tiny_tables, tiny_data: Path, embedded: Path, small_disk: Callable[[int], Path]
) -> None:
    small, said = small_disk(16 << 10), "No space left on device; free some space"
    commands = [
        (said, "index", "--embeddings", embedded, "--out"),
        (said, "train", TINY, "--data", tiny_data, "--workdir"),
        (said, "embed", "--run", trained, "--products", tiny_tables.products, "--out"),
        ("the disk is full; preparing needs about", "prepare", "--products", tiny_tables.products, "--out"),
    ]
    for full, name, *options in commands:
        refused(call(name, *options, small / name), str(small / name), full)
        assert not list(small.iterdir()), name


@pytest.mark.slow
def test_a_disk_that_fills_up_loses_no_checkpoint(
    trained: Path, tiny_data: Path, small_disk: Callable[[int], Path]
) -> None:
    """There is room for the run and two checkpoints; the third has to be written before the first may go."""
    files = [file for file in trained.rglob("*") if file.is_file()]
    room = {file.relative_to(trained): -(-file.stat().st_size // 4096) * 4096 for file in files}
    checkpoint = sum(size for file, size in room.items() if file.parts[:2] == ("checkpoints", "30"))
    others = sum(size for file, size in room.items() if file.parts[0] not in ("checkpoints", "model.safetensors"))
    run = small_disk(others + checkpoint * 5 // 2) / "run"
    command = ("train", TINY, "--data", tiny_data, "--workdir", run)
    output = finish(spawn(*command), code=2)
    assert "Traceback" not in output
    assert [line for line in output.splitlines() if line.startswith("make-jax: error: ")] == [
        f"make-jax: error: {run}/checkpoints: No space left on device; free some space or choose another place, "
        "then run the command again"
    ]
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["10", "20"]
    small_disk(64 << 20)
    assert "resuming at step" in finish(spawn(*command))
    assert losses(run) == losses(trained)
    assert (run / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


def test_a_place_that_cannot_be_is_one_line(trained: Path, tiny_data: Path, embedded: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("precious")
    for place in (file, file / "below"):
        refused(call("train", TINY, "--data", tiny_data, "--workdir", place), str(file), "another")
        refused(call("index", "--embeddings", embedded, "--out", place), str(file), "another")
        line = refused(call("embed", "--run", trained, "--products", file, "--out", tmp_path))
        assert "space" not in line
    assert file.read_text() == "precious"
