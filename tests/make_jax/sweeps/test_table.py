"""Rows, their order and what is said of them; Markdown, CSV and the page."""

from __future__ import annotations

import csv
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from browser import Browser
from hypothesis import given
from hypothesis import strategies as st
from table_sample import VARIANTS, result, sample

from make_jax.errors import UserError
from make_jax.retrieval.bootstrap import paired_bootstrap
from make_jax.sweeps.page import render
from make_jax.sweeps.results import RunResult
from make_jax.sweeps.table import Difference, build_table, summarise
from make_jax.sweeps.writing import markdown, shown_metrics, write_table


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_means_and_deviations_are_numpys(values: list[float]) -> None:
    summary = summarise(values)
    assert summary.mean == pytest.approx(np.mean(values))
    if len(values) == 1:
        assert summary.deviation is None
    else:
        assert summary.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-12)


def test_rows_are_sorted_and_the_best_is_complete() -> None:
    variants = [("none", {}), ("low", {}), ("lucky", {}), ("high", {})]
    runs = [result("low", 0, 0.5), result("low", 1, 0.5), result("high", 0, 0.6), result("high", 1, 0.7)]
    runs += [result("lucky", 0, 0.9), RunResult("lucky", 1, "failed", "why"), RunResult("none", 0, "missing")]
    table = build_table("s", "r_precision", variants, runs, command="c")
    assert [row.name for row in table.rows] == ["lucky", "high", "low", "none"]
    assert [row.name for row in table.rows if row.is_best] == ["high"]
    assert table.metrics == ["r_precision", "mrr"]
    assert [run.name for run in table.open_runs] == ["lucky/seed-1", "none/seed-0"]
    assert build_table("s", "mrr", variants, runs, command="c").metrics == ["mrr", "r_precision"]


def test_differences_are_of_the_seeds_that_both_have() -> None:
    runs = [result("a", 0, 0.5), result("a", 1, 0.6), result("b", 1, 0.7), result("b", 2, 0.9), result("c", 5, 0.7)]
    table = build_table("s", "r_precision", [(n, {}) for n in "abc"], runs, command="c", baseline="a")
    rows = {row.name: row for row in table.rows}
    assert rows["a"].difference is None
    difference = rows["b"].difference
    assert difference is not None
    assert difference.difference == pytest.approx(0.1)
    assert not difference.is_clear
    assert rows["c"].difference is None
    assert any("no seed in common" in note for note in table.notes)
    assert any("no interval without metrics by query" in note for note in table.notes)


def test_the_interval_is_over_the_queries_that_all_runs_have(tmp_path: Path) -> None:
    rng, shared = np.random.default_rng(0), set(range(30))
    values = {(name, seed): rng.random(30) + (name == "b") for name in "ab" for seed in range(2)}
    runs = []
    for number, ((name, seed), metric) in enumerate(values.items()):
        kept = rng.permutation(30)[number:]
        shared &= set(kept.tolist())
        file = tmp_path / f"{name}{seed}.parquet"
        pq.write_table(pa.table({"query_id": [f"q{n:02}" for n in kept], "r_precision": metric[kept]}), file)
        runs.append(replace(result(name, seed, metric.mean()), per_query=file))
    assert len(shared) < 30
    both = (np.stack([values[name, seed][sorted(shared)] for seed in range(2)]) for name in "ba")
    table = build_table("s", "r_precision", [("a", {}), ("b", {})], runs, command="c", baseline="a")
    (difference,) = [row.difference for row in table.rows if row.name == "b"]
    assert difference == pytest.approx(paired_bootstrap(*both))
    assert difference.is_clear


def test_what_makes_runs_hard_to_compare_is_said() -> None:
    runs = [result("a", 0, 0.5), result("a", 1, 0.5, minutes=6.0, commit="def")]
    table = build_table("s", "r_precision", [("a", {})], runs, command="c", minutes=5.0)
    assert "the runs are of 2 commits: abc, def" in table.notes
    assert "1 runs trained more than 10 % longer or shorter than 5 minutes: a/seed-1" in table.notes


def test_unknown_baselines_and_metrics_are_refused() -> None:
    with pytest.raises(UserError, match="baseline b: there is no such variant; there are: a"):
        build_table("s", "r_precision", [("a", {})], [], command="c", baseline="b")
    with pytest.raises(UserError, match=r"metric map.*r_precision"):
        build_table("s", "map", [("a", {})], [result("a", 0, 0.5)], command="c")


def test_the_files_agree(tmp_path: Path) -> None:
    table = sample()
    paths = write_table(table, tmp_path)
    assert [path.name for path in paths] == ["table.md", "table.csv", "table.html", "runs.csv"]
    with (tmp_path / "table.csv").open() as file:
        variants = list(csv.DictReader(file))
    with (tmp_path / "runs.csv").open() as file:
        runs = list(csv.DictReader(file))
    assert [row["variant"] for row in variants] == [row.name for row in table.rows]
    for row in variants:
        values = [float(run["r_precision"]) for run in runs if run["variant"] == row["variant"] and run["r_precision"]]
        assert (float(row["r_precision"]) if values else row["r_precision"]) == (
            pytest.approx(np.mean(values)) if values else ""
        )
    text = (tmp_path / "table.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count(" | ") >= 1 for line in lines if "---" not in line)
    assert "mean \\| fixed" in text
    assert "exit status 1: <oh> \\| no" in text
    assert "| model.fusion" not in text
    assert "make-jax train full <b>" in text


def test_a_table_without_any_result_can_be_written(tmp_path: Path) -> None:
    runs = [RunResult(name, 0, "missing") for name, _ in VARIANTS]
    table = build_table("s", "r_precision", VARIANTS, runs, command="c", baseline="broken")
    write_table(table, tmp_path)
    assert "0 of 8 done" not in (tmp_path / "table.html").read_text()
    assert f"0 of {len(VARIANTS)} done" in (tmp_path / "table.html").read_text()


def test_conditions_are_shown_right_after_the_headline() -> None:
    metrics = {"mrr": 0.5, "recall@100": 0.7, "ndcg@10": 0.8, "without images: r_precision": 0.4, "r_precision": 0.6}
    run = replace(result("a", 0, 0.5), metrics={**metrics, "without images: mrr": 0.1})
    table = build_table("s", "r_precision", [("a", {})], [run], command="c")
    assert shown_metrics(table) == ["r_precision", "without images: r_precision", "ndcg@10", "recall@100", "mrr"]


def test_the_page_holds_all_it_shows_and_escapes_names() -> None:
    table = sample()
    clear = Difference(0.05, 0.01, 0.09)
    page = render(replace(table, rows=(replace(table.rows[0], difference=clear), *table.rows[1:])), ["r_precision"])
    assert "full &lt;b&gt;" in page
    assert "<oh>" not in page
    assert "+0.0500" in page
    assert "+0.0100 to +0.0900" in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    figures = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(figures) == 4  # by variant, against time, the line of rates, the map of the crossed settings
    for figure in figures:
        ElementTree.fromstring(figure)
    assert "model.fusion.kind × model.fusion.layers" in page


def test_where_all_took_as_long_time_is_no_figure() -> None:
    runs = [result("a", 0, 0.5), result("b", 0, 0.6, minutes=5.2)]
    table = build_table("s", "r_precision", [("a", {}), ("b", {})], runs, command="c")
    assert "Training time" not in render(table, ["r_precision"])
    assert "± " not in markdown(table).partition("## Variants")[0].partition("|")[2]


@pytest.mark.parametrize("width", [500, 1280])
def test_a_browser_paints_the_page_without_sideways_scrolling(browser: Browser, width: int) -> None:
    seen = browser.look(render(sample(), ["r_precision", "mrr"]), width)
    assert seen.scroll <= seen.inner == width
    assert len(seen.figures) == 4
    assert min(seen.figures) > 100
    assert "CONSOLE" not in seen.log
