"""BM25, hybrid search, groups of products and comparisons as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from command_line import TINY, call, finish, refused, spawn

GROUPS = {"never clicked", "clicked", "title lacks a word", "title has all words"}


@pytest.fixture(scope="session")
def bm25(tiny_tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("bm25") / "bm25"
    result = call("bm25", "--products", tiny_tables.products, "--out", out)
    assert result.exit_code == 0, result.output
    assert "200 products" in result.output
    return out


@pytest.fixture(scope="session")
def judged(tiny_tables) -> tuple[object, ...]:
    return ("--queries", tiny_tables.queries, "--qrels", tiny_tables.qrels)


@pytest.fixture(scope="session")
def report(trained: Path, indexed: Path, bm25: Path, tiny_tables, judged, tmp_path_factory) -> Path:
    """A model, its index, BM25 and both joined, over the tiny catalogue."""
    out = tmp_path_factory.mktemp("report") / "report"
    colours = out.with_name("colours.txt")
    colours.write_text("# of the synthetic catalogue\nred\nblue\ngreen\nblack\nwhite\nyellow\npink\nbrown\ngrey\n")
    systems = ("--run", trained, "--index", indexed, "--bm25", bm25, "--hybrid", "learned")
    result = call(
        "evaluate", *systems, *judged, "--products", tiny_tables.products, "--words", f"colour={colours}", "--out", out
    )
    assert result.exit_code == 0, (result.output, result.exception)
    return out


def metrics_of(report: Path) -> dict:
    return json.loads((report / "metrics.json").read_text())


def test_every_system_has_its_column(report: Path) -> None:
    found = metrics_of(report)
    assert list(found["metrics"]) == ["exact", "index", "bm25", "hybrid", "hybrid_index"]
    assert found["hybrid"]["hybrid"]["cross_fitted"] is True
    assert {segment["column"] for segment in found["segments"]} == set(found["metrics"])
    page = (report / "report.html").read_text()
    assert "hybrid_index" in page
    assert "By kind of product" in page


def test_groups_say_how_many_stand_behind_them(report: Path) -> None:
    groups = [group for group in metrics_of(report)["groups"] if group["column"] == "bm25"]
    assert {group["name"] for group in groups} >= GROUPS
    by_name = {group["name"]: group for group in groups}
    relevant = pd.read_parquet(report / "per_query.parquet")
    assert set(relevant["group"]) >= GROUPS | {"all"}
    assert by_name["title has all words"]["pairs"] > 0
    assert by_name["title has all words"]["matched"] > by_name["title lacks a word"]["matched"]


def test_cold_products_are_those_of_the_log_that_is_named(
    trained: Path, embedded: Path, judged, tmp_path: Path, report: Path
) -> None:
    qrels = pd.read_parquet(judged[3])
    product = qrels[qrels["relevance"] == 2]["product_id"].iloc[0]
    (tmp_path / "clicks.csv").write_text(f"query,product_id\nred,{product}\n")
    systems = ("--run", trained, "--embeddings", embedded, "--interactions", tmp_path / "clicks.csv")
    result = call("evaluate", *systems, *judged, "--out", tmp_path / "r")
    assert result.exit_code == 0, (result.output, result.exception)
    pairs = {group["name"]: group["pairs"] for group in metrics_of(tmp_path / "r")["groups"]}
    relevant = qrels[qrels["relevance"] == 2]
    assert pairs["clicked"] == (relevant["product_id"] == product).sum()
    assert pairs["never clicked"] == len(relevant) - pairs["clicked"]


def test_bm25_alone_is_judged_alike(bm25: Path, judged, report: Path, tmp_path: Path) -> None:
    result = call("evaluate", "--bm25", bm25, *judged, "--out", tmp_path / "r")
    assert result.exit_code == 0, (result.output, result.exception)
    alone = metrics_of(tmp_path / "r")["metrics"]
    assert alone == {"bm25": metrics_of(report)["metrics"]["bm25"]}
    assert "BM25: 200 products" in (tmp_path / "r" / "report.html").read_text()


def test_bm25_searches_the_columns_it_is_told(tiny_tables, tmp_path: Path) -> None:
    command = ("bm25", "--products", tiny_tables.products, "--out", tmp_path / "b", "--fields")
    assert call(*command, "category").exit_code == 0
    assert json.loads((tmp_path / "b" / "manifest.json").read_text())["fields"] == ["category"]
    refused(call(*command, "colours"), "no column 'colours'")


def test_reports_are_compared(report: Path, tmp_path: Path, trained: Path, embedded: Path, judged, tiny_tables) -> None:
    result = call("compare", f"{report}:bm25", report, f"{report}:exact,{report}:hybrid", "--metric", "ndcg@10")
    assert result.exit_code == 0, (result.output, result.exception)
    lines = result.stdout.splitlines()
    assert len(lines) == 4
    assert "[" in lines[2]
    found = json.loads(call("compare", f"{report}:exact", report, "--json").stdout)
    assert [row["against_first"] for row in found if row["against_first"]] == [[0, 0, 0]] * 4
    assert call("compare", f"{report}:exact", report, "--group", "never clicked").exit_code == 0
    refused(call("compare", report), "two reports")
    refused(call("compare", report, f"{report}:indx"), "no column 'indx'", "'exact'")
    refused(call("compare", report, report, "--metric", "auc"), "'auc'", "r_precision")
    fewer = pd.read_parquet(tiny_tables.queries).iloc[:10]
    fewer.to_parquet(tmp_path / "q.parquet")
    command = ("evaluate", "--run", trained, "--embeddings", embedded, "--queries", tmp_path / "q.parquet")
    # The judgements of the other queries are set aside.
    assert call(*command, "--qrels", judged[3], "--out", tmp_path / "few").exit_code == 0
    refused(call("compare", report, tmp_path / "few"), "other queries or judgements")


def test_a_weight_is_learned_used_and_refused_where_it_would_flatter(
    trained: Path, indexed: Path, bm25: Path, judged, tiny_tables, tmp_path: Path
) -> None:
    queries = pd.read_parquet(tiny_tables.queries)
    for name, part in (("fit", queries[::2]), ("test", queries[1::2])):
        part.to_parquet(tmp_path / f"{name}.parquet")
    systems = ("--run", trained, "--index", indexed, "--bm25", bm25)
    weight = tmp_path / "hybrid.json"
    result = call("hybrid", *systems, "--queries", tmp_path / "fit.parquet", *judged[2:], "--out", weight)
    assert result.exit_code == 0, (result.output, result.exception)
    learned = json.loads(weight.read_text())
    assert learned["ndcg"] >= max(learned["ndcg_bm25"], learned["ndcg_vectors"])
    use = ("--hybrid", "learned", "--hybrid-weight", weight)
    evaluate = ("evaluate", *systems, *use, "--qrels", judged[3], "--out", tmp_path / "r")
    result = call(*evaluate, "--queries", tmp_path / "test.parquet")
    assert result.exit_code == 0, (result.output, result.exception)
    assert metrics_of(tmp_path / "r")["hybrid"]["hybrid"] == {"weights": [learned["weight"]], "cross_fitted": False}
    refused(call(*evaluate, "--queries", tiny_tables.queries), f"learned from {len(queries[::2])} of these")
    result = call("search", *systems, *use, "red dress", "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    scores = [hit["score"] for hit in json.loads(result.stdout)["results"]]
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)


def test_search_joins_by_ranks(trained: Path, indexed: Path, bm25: Path) -> None:
    command = ("search", "--run", trained, "--index", indexed, "red dress", "--json")
    joined = call(*command, "--bm25", bm25, "--hybrid", "rrf")
    assert joined.exit_code == 0, (joined.output, joined.exception)
    assert json.loads(joined.stdout)["results"][0]["score"] <= 2 / 61
    refused(call(*command, "--hybrid", "rrf"), "--bm25")
    refused(call(*command, "--bm25", bm25), "--hybrid")
    refused(call(*command, "--bm25", bm25, "--hybrid", "learned"), "--hybrid-weight")


def test_systems_that_do_not_go_together_are_refused(
    trained: Path, embedded: Path, bm25: Path, judged, tmp_path
) -> None:
    evaluate = ("evaluate", *judged, "--out", tmp_path / "r")
    refused(call(*evaluate), "nothing to judge", "--bm25")
    refused(call(*evaluate, "--run", trained, "--bm25", bm25), "--index or --embeddings")
    refused(call(*evaluate, "--bm25", bm25, "--embeddings", embedded), "--run")
    refused(call(*evaluate, "--bm25", bm25, "--hybrid", "rrf"), "--hybrid joins")
    refused(call(*evaluate, "--bm25", bm25, "--hybrid-weight", bm25), "--hybrid learned")
    refused(call(*evaluate, "--bm25", bm25, "--words", "colour"), "NAME=FILE")
    refused(call(*evaluate, "--bm25", bm25, "--words", f"c={tmp_path}/no"), "cannot be read")
    (tmp_path / "w").write_text("red\n")
    refused(call(*evaluate, "--bm25", bm25, "--words", f"c={tmp_path}/w"), "--products")
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(("without", "weights"), [("images", (1, 0)), ("titles", (0, 1))])
def test_a_catalogue_without_pictures_or_titles(
    trained: Path, tiny_tables, judged, tmp_path: Path, without: str, weights: tuple[int, int]
) -> None:
    out = tmp_path / "e.parquet"
    result = call("embed", "--run", trained, "--products", tiny_tables.products, "--without", without, "--out", out)
    assert result.exit_code == 0, (result.output, result.exception)
    table = pq.read_table(out)
    assert tuple(set(table[f"weight_{side}"].to_pylist()) for side in ("text", "image")) == tuple({w} for w in weights)
    assert call("index", "--embeddings", out, "--out", tmp_path / "index").exit_code == 0
    for source in (("--embeddings", out), ("--index", tmp_path / "index")):
        result = call("evaluate", "--run", trained, *source, *judged, "--out", tmp_path / "r")
        assert result.exit_code == 0, (result.output, result.exception)
        assert metrics_of(tmp_path / "r")["without"] == without
        assert f"without {without}" in (tmp_path / "r" / "report.html").read_text()


def test_a_catalogue_without_clicks_goes_the_whole_way(tiny_tables, bm25: Path, judged, tmp_path: Path) -> None:
    data, run, vectors = tmp_path / "data", tmp_path / "run", tmp_path / "e.parquet"
    assert call("prepare", "--products", tiny_tables.products, "--out", data).exit_code == 0
    finish(spawn("train", TINY, "--data", data, "--workdir", run, "--set", "training.steps=2"))
    for command in (
        ("embed", "--run", run, "--products", tiny_tables.products, "--out", vectors),
        ("evaluate", "--run", run, "--embeddings", vectors, "--bm25", bm25, "--hybrid", "rrf", *judged, "--out", "r"),
    ):
        arguments = [tmp_path / "r" if part == "r" else part for part in command]
        result = call(*arguments)
        assert result.exit_code == 0, (result.output, result.exception)
    found = metrics_of(tmp_path / "r")
    assert list(found["metrics"]) == ["exact", "bm25", "hybrid"]
    assert "never clicked" not in {group["name"] for group in found["groups"]}  # nothing was: no two groups to compare
