"""The commands as a user runs them: real processes on real files, from tables to a report, and what can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from make_jax.cli import main
from make_jax.retrieval.embeddings import EmbeddingWriter, read_embeddings
from make_jax.run import read_metrics

TINY = str(Path(__file__).parents[2] / "experiments" / "tiny.py")


def call(*arguments: object) -> Result:
    """A command in this process: quick, and the same code path as the console script."""
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=True)


def refused(result: Result, *parts: str) -> str:
    """The one line of an error that the user can mend."""
    assert result.exit_code == 2, (result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("make-jax: error: ")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    for part in parts:
        assert part in lines[0]
    return lines[0]


def spawn(*arguments: object) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, "-m", "make_jax", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def losses(run: Path) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in read_metrics(run / "metrics.jsonl") if "loss" in r}


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Everything that a process printed, once it has ended as expected."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def wait_until(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    wait_until(process, lambda: max(losses(run), default=0) >= step)


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, undisturbed, in a process with one device."""
    run = tmp_path_factory.mktemp("trained") / "run"
    process = spawn("train", TINY, "--data", tiny_data, "--workdir", run)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return run


@pytest.fixture(scope="module")
def embedded(trained: Path, tiny_tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedded") / "products.parquet"
    result = call("embed", "--run", trained, "--products", tiny_tables.products, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="module")
def indexed(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("indexed") / "index"
    result = call("index", "--embeddings", embedded, "--out", out)
    assert result.exit_code == 0, result.output
    assert "recall@10" in result.output
    return out


def test_a_run_holds_all_that_is_needed(trained: Path) -> None:
    for name in ("experiment.json", "run.json", "result.json", "model.safetensors", "metrics.jsonl", "tokenizer"):
        assert (trained / name).exists()
    assert sorted(losses(trained)) == list(range(1, 31))
    assert losses(trained)[30] < losses(trained)[1]
    dev = [record for record in read_metrics(trained / "metrics.jsonl") if "dev/r_precision" in record]
    assert [record["step"] for record in dev] == [30]


def test_killed_at_once_or_told_to_stop_the_run_goes_on_exactly(tiny_data: Path, tmp_path: Path) -> None:
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    # Many steps, so that a signal sent at one of them arrives before the last.
    habits = ("--set", "training.steps=150", "--set", "training.checkpoint_every=20", "--set", "training.log_every=1")
    command = ("train", TINY, "--data", tiny_data, *habits, "--workdir")
    finish(spawn(*command, undisturbed))
    process = spawn(*command, run)
    wait_for_step(process, run, 25)
    process.kill()
    process.wait()
    reached, written = max(losses(run)), (run / "metrics.jsonl").stat().st_ino
    process = spawn(*command, run)
    wait_until(process, lambda: (run / "metrics.jsonl").stat().st_ino != written)  # the steps to repeat are dropped
    wait_for_step(process, run, reached + 5)
    process.send_signal(signal.SIGTERM)
    assert "the same command goes on from there" in finish(process)
    assert not (run / "result.json").exists()
    finish(spawn(*command, run))
    assert losses(run) == losses(undisturbed)
    assert (run / "model.safetensors").read_bytes() == (undisturbed / "model.safetensors").read_bytes()


def test_embeddings_are_what_the_contract_says(embedded: Path, tiny_tables, trained: Path, tmp_path: Path) -> None:
    table = pq.read_table(embedded)
    assert table.column_names == ["product_id", "vector", "weight_text", "weight_image"]
    truth = pd.read_parquet(tiny_tables.truth)
    assert set(table["product_id"].to_pylist()) == set(truth["product_id"])
    weights = np.stack([table["weight_text"].to_numpy(), table["weight_image"].to_numpy()])
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-5)
    vectors = np.stack(table["vector"].to_numpy())
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    again = tmp_path / "again.parquet"
    assert call("embed", "--run", trained, "--products", tiny_tables.products, "--out", again).exit_code == 0
    np.testing.assert_array_equal(np.stack(pq.read_table(again)["vector"].to_numpy()), vectors)
    result = call("embed", "--run", trained, "--queries", tiny_tables.queries, "--out", tmp_path / "q.parquet")
    assert result.exit_code == 0, result.output
    assert pq.read_table(tmp_path / "q.parquet").column_names == ["query_id", "vector"]


def test_evaluation_agrees_with_training_and_draws_a_report(
    trained: Path, indexed: Path, embedded: Path, tiny_tables, tmp_path: Path
) -> None:
    judge = ("--run", trained, "--queries", tiny_tables.queries, "--qrels", tiny_tables.qrels)
    result = call("evaluate", *judge, "--index", indexed, "--out", tmp_path / "a")
    assert result.exit_code == 0, (result.output, result.exception)
    metrics = json.loads((tmp_path / "a" / "metrics.json").read_text())
    dev = [record for record in read_metrics(trained / "metrics.jsonl") if "dev/r_precision" in record][-1]
    for name, value in metrics["metrics"]["exact"].items():
        # Batches of other sizes round otherwise, which moves scores by a millionth; no ranking hangs on that here.
        assert value == pytest.approx(dev[f"dev/{name}"], abs=1e-6), name
    assert metrics["metrics"].keys() == {"exact", "index"}
    page = (tmp_path / "a" / "report.html").read_text()
    assert "data:image" in page
    assert pd.read_parquet(tiny_tables.queries)["query"][0].split()[0] in page
    result = call(
        "evaluate", *judge, "--embeddings", embedded, "--products", tiny_tables.products, "--out", tmp_path / "b"
    )
    assert result.exit_code == 0, (result.output, result.exception)
    other = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert other["metrics"]["exact"] == metrics["metrics"]["exact"]


def test_search_finds_what_exact_scores_say(trained: Path, indexed: Path, tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("query_id,query\n1,red dress\n")
    result = call("embed", "--run", trained, "--queries", tmp_path / "q.csv", "--out", tmp_path / "q.parquet")
    assert result.exit_code == 0, (result.output, result.exception)
    exact = np.load(indexed / "vectors.npy") @ pq.read_table(tmp_path / "q.parquet")["vector"][0].values.to_numpy()
    ids = pq.read_table(indexed / "ids.parquet")["product_id"].to_pylist()
    exact_of = dict(zip(ids, exact.tolist(), strict=True))
    result = call("search", "--run", trained, "--index", indexed, "red dress", "-k", 5, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    answer = json.loads(result.stdout)
    scores = [hit["score"] for hit in answer["results"]]
    assert scores == pytest.approx(sorted(exact, reverse=True)[:5], abs=1e-5)
    assert scores == pytest.approx([exact_of[hit["product_id"]] for hit in answer["results"]], abs=1e-5)
    assert all(hit["weight_text"] + hit["weight_image"] == pytest.approx(1, abs=1e-5) for hit in answer["results"])
    assert any(hit["title"] for hit in answer["results"])
    plain = call("search", "--run", trained, "--index", indexed, "red dress", "-k", 5)
    assert all(hit["product_id"] in plain.stdout for hit in answer["results"])


@pytest.mark.parametrize("query", ["ተልባ ᚠᚢᚦ", "红色 连衣裙", "🙂", "x" * 10_000, "\u0000dress\u0007"])
def test_odd_queries_simply_work(trained: Path, indexed: Path, query: str) -> None:
    result = call("search", "--run", trained, "--index", indexed, query, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    assert len(json.loads(result.stdout)["results"]) == 10


def test_a_long_query_is_cut_and_said_to_be(trained: Path, indexed: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert call("search", "--run", trained, "--index", indexed, "red dress " * 1000).exit_code == 0
    assert "the model reads 8, the rest is cut off" in caplog.text


def test_many_long_queries_are_one_warning(trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = "".join(f"{i},{'red dress ' * i}\n" for i in range(1, 31))
    (tmp_path / "q.csv").write_text("query_id,query\n" + rows)
    result = call("embed", "--run", trained, "--queries", tmp_path / "q.csv", "--out", tmp_path / "q.parquet")
    assert result.exit_code == 0, (result.output, result.exception)
    warnings = [record.message for record in caplog.records if "cut off" in record.message]
    assert len(warnings) == 1
    # [CLS], two words a repetition, [SEP]: from the fourth on they have more than 8 tokens.
    assert "has 10 tokens (and 26 more of 30 queries have too many); the model reads 8" in warnings[0]


def test_queries_of_another_model_tune_no_index(embedded: Path, tmp_path: Path) -> None:
    width = len(pq.read_table(embedded)["vector"][0].values)
    with EmbeddingWriter(tmp_path / "q.parquet", "queries", width, "another-model") as writer:
        writer.write(["1"], np.eye(1, width, dtype=np.float32))
    index = ("index", "--embeddings", embedded, "--out", tmp_path / "index", "--tune-queries", tmp_path / "q.parquet")
    refused(call(*index), "another-model", read_embeddings(embedded, "products").fingerprint)
    assert not (tmp_path / "index").exists()


def test_a_demo_that_is_stopped_says_how_to_go_on(tmp_path: Path) -> None:
    process = spawn("demo", "--workdir", tmp_path)
    wait_for_step(process, tmp_path / "run", 1)
    process.send_signal(signal.SIGTERM)
    assert f"{tmp_path}: stopped and saved; the same command goes on from there" in finish(process)
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_demo_refuses_seeds_that_would_be_cut(tmp_path: Path, seed: int) -> None:
    result = call("demo", "--workdir", tmp_path / "demo", "--seed", seed)
    assert result.exit_code == 2
    assert "--seed" in result.stderr
    assert not (tmp_path / "demo").exists()


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
    refused(call("train", TINY, "--data", tmp_path, "--workdir", tmp_path / "run"), str(tmp_path))
    refused(call("train", tmp_path / "no.py", "--data", tiny_data, "--workdir", tmp_path / "run"), "no.py")
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_catalogue_without_clicks_cannot_be_trained_on(tiny_tables, tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert call("prepare", "--products", tiny_tables.products, "--out", data).exit_code == 0
    refused(call("train", TINY, "--data", data, "--workdir", tmp_path / "run"), "no clicks")
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


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A real file system of so many bytes, where this process may mount one; a second call resizes it."""
    folder = tmp_path / "small"
    folder.mkdir()

    def sized(size: int) -> Path:
        options = f"{'remount,' if folder.is_mount() else ''}size={size}"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("mounting a file system is not allowed here")
        return folder

    yield sized
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)


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
