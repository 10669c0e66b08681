"""A sweep as a user runs it: real training of two variants, evaluated, in one table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from command_line import FAST_COMPILE, call, refused

from make_jax.run import open_run

SWEEP = """
from experiments import tiny
from make_jax.sweeps import Sweep, grid

def get_sweep():
    return Sweep("two", tiny.get_config(), grid({"model.fusion.kind": ["modal_adaptation", "mean"]}))
"""


@pytest.fixture
def sweep_file(tmp_path: Path) -> Path:
    file = tmp_path / "two.py"
    file.write_text(SWEEP)
    return file


@pytest.mark.slow
def test_two_variants_end_in_one_table_and_are_evaluated_when_asked(
    sweep_file: Path, tiny_data: Path, tiny_tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XLA_FLAGS", FAST_COMPILE)  # for the processes of the runs, which compile much the same
    out = tmp_path / "out"
    command = ("sweep", sweep_file, "--data", tiny_data, "--workdir", out, "--set", "training.steps=6")
    trained = call(*command)
    assert trained.exit_code == 0, trained.output
    assert "2 of 2 runs done" in trained.output
    rows = table(out)
    assert rows.keys() == {"kind=modal_adaptation", "kind=mean"}
    for name, row in rows.items():
        run = open_run(out / "runs" / name / "seed-0" / "run")
        assert run.experiment.model.fusion.kind == name.removeprefix("kind=")
        assert float(row["parameters"]) == run.result["parameters"]
        assert float(row["steps"]) == 6
        assert float(row["r_precision"]) == run.result["dev"]["dev/r_precision"]
        assert row["command"].startswith("make-jax train ")
    assert "<svg" in (out / "table.html").read_text()
    judged = ("--products", tiny_tables.products, "--queries", tiny_tables.queries, "--qrels", tiny_tables.qrels)
    evaluated = call(*command, *judged, "--only", "kind=mean")
    assert evaluated.exit_code == 0, evaluated.output
    assert "1 of 1 runs done" in evaluated.output
    folder = out / "runs" / "kind=mean" / "seed-0"
    judgement = json.loads((folder / "report" / "metrics.json").read_text())
    assert float(table(out)["kind=mean"]["mrr"]) == judgement["metrics"]["exact"]["mrr"]
    assert (folder / "log.txt").read_text().count("$ ") == 3


def table(out: Path) -> dict[str, dict[str, str]]:
    with (out / "table.csv").open() as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def test_sweeps_are_refused_in_one_line(sweep_file: Path, tiny_data: Path, tmp_path: Path) -> None:
    sweep = ("sweep", sweep_file, "--data", tiny_data, "--workdir", tmp_path / "out")
    refused(call(*sweep, "--set", "training.stepz=3"), "variant kind=modal_adaptation", "training.steps")
    refused(call(*sweep, "--only", "mean"), "--only mean", "did you mean kind=mean?")
    assert not (tmp_path / "out").exists()
