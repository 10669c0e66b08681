"""The commands as a user runs them: real processes on real files, from tables to a report."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_line import call, finish, losses, refused, spawn, wait_for_step

from make_jax.retrieval.embeddings import EmbeddingWriter, read_embeddings
from make_jax.run import read_metrics


def test_a_run_holds_all_that_is_needed(trained: Path) -> None:
    for name in ("experiment.json", "run.json", "result.json", "model.safetensors", "metrics.jsonl", "tokenizer"):
        assert (trained / name).exists()
    assert sorted(losses(trained)) == list(range(1, 31))
    assert losses(trained)[30] < losses(trained)[1]
    dev = [record for record in read_metrics(trained / "metrics.jsonl") if "dev/r_precision" in record]
    assert [record["step"] for record in dev] == [30]


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


@pytest.mark.slow
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
