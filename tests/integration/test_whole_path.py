"""The commands as a user runs them: real processes on real files, from tables to a report, and all that can go wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result

from make_jax.cli import main
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


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    deadline = time.monotonic() + 240
    while max(losses(run), default=0) < step:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


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


def test_killed_at_once_or_told_to_stop_the_run_goes_on_exactly(
    tiny_data: Path, trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    command = ("train", TINY, "--data", tiny_data, "--workdir", run)
    process = spawn(*command, "--set", "training.log_every=1")
    wait_for_step(process, run, 14)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process = spawn(*command, "--set", "training.log_every=1")
    wait_for_step(process, run, 18)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "the same command goes on from there" in output
    assert not (run / "result.json").exists()
    process = spawn(*command)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert losses(run) == losses(trained)
    assert (run / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()


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
        assert value == pytest.approx(dev[f"dev/{name}"], abs=0.02), name
    assert metrics["metrics"].keys() == {"exact", "index"}
    page = (tmp_path / "a" / "report.html").read_text()
    assert "data:image" in page
    assert pd.read_parquet(tiny_tables.queries)["query"][0].split()[0] in page
    result = call("evaluate", *judge, "--embeddings", embedded, "--products", tiny_tables.products, "--out", tmp_path / "b")
    assert result.exit_code == 0, (result.output, result.exception)
    other = json.loads((tmp_path / "b" / "metrics.json").read_text())
    assert other["metrics"]["exact"] == metrics["metrics"]["exact"]


def test_search_finds_what_exact_scores_say(trained: Path, indexed: Path) -> None:
    result = call("search", "--run", trained, "--index", indexed, "red dress", "-k", 5, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    answer = json.loads(result.stdout)
    scores = [hit["score"] for hit in answer["results"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert all(hit["weight_text"] + hit["weight_image"] == pytest.approx(1, abs=1e-5) for hit in answer["results"])
    assert any(hit["title"] for hit in answer["results"])
    plain = call("search", "--run", trained, "--index", indexed, "red dress", "-k", 5)
    assert all(hit["product_id"] in plain.stdout for hit in answer["results"])


@pytest.mark.parametrize("query", ["ተልባ ᚠᚢᚦ", "红色 连衣裙", "🙂", "x" * 10_000, "\u0000dress\u0007"])
def test_odd_queries_simply_work(trained: Path, indexed: Path, query: str) -> None:
    result = call("search", "--run", trained, "--index", indexed, query, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    assert len(json.loads(result.stdout)["results"]) == 10


def test_a_long_query_is_cut_and_said_to_be(
    trained: Path, indexed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert call("search", "--run", trained, "--index", indexed, "red dress " * 1000).exit_code == 0
    assert "the model reads 8, the rest is cut off" in caplog.text


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
    refused(call("embed", "--run", trained, "--products", products, "--out", out, "--max-bad-share", 0), "no_title_no_image")


def test_a_full_disk_is_one_line(trained: Path, tiny_data: Path, embedded: Path, tmp_path: Path) -> None:
    """On a real, tiny file system, where this process may mount one."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    try:
        refused(call("index", "--embeddings", embedded, "--out", small / "index"), "space")
        refused(call("train", TINY, "--data", tiny_data, "--workdir", small / "run"), "space")
        refused(call("embed", "--run", trained, "--products", embedded, "--out", small / "e.parquet"))
        assert not (small / "index").exists()
        assert not (small / "run" / "result.json").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)
