"""Bayesian search: a study that learns, survives being stopped, and takes failures for what they are."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from fake_sweep import Options
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.study import Study, load_study

from make_jax.commands.sweep import SweepOptions, run_sweep
from make_jax.errors import UserError
from make_jax.sweeps.execute import Outcome
from make_jax.sweeps.plan import PlannedRun, load_sweep
from make_jax.sweeps.search import SearchSource

SPACE = '{"optimizer.learning_rate": log_uniform(1e-6, 1e-1), "data.flip": choice(True, False)}'


def search(trials: int, seeds: int = 1) -> str:
    return f"search=Search({SPACE}, trials={trials}, seed=1), seeds={seeds}"


def study(options: SweepOptions) -> Study:
    backend = JournalFileBackend(str(options.workdir / "study.log"))
    return load_study(study_name="test", storage=JournalStorage(backend))


def changes(workdir: Path, number: int) -> dict[str, str]:
    return json.loads((workdir / "runs" / f"trial-{number:03d}" / "variant.json").read_text())["changes"]


def drive(options: SweepOptions, workdir: Path) -> None:
    """Make a search's runs without any process: a rate of 1e-3 is best, an order of magnitude costs 0.1."""
    workdir.mkdir(exist_ok=True)

    def objective(run: PlannedRun) -> float:
        return 0.8 - 0.1 * abs(math.log10(float(run.variant.changes["optimizer.learning_rate"])) + 3)

    source = SearchSource(load_sweep(options.file), (), workdir, objective)
    while run := source.take():
        source.ended(run, Outcome("done"))


def test_a_search_finds_its_way_and_goes_on_as_if_never_stopped(options: Options, tmp_path: Path) -> None:
    stopped, at_once = tmp_path / "out", tmp_path / "at_once"
    drive(options(search(3)), stopped)
    chosen = options(search(16))
    drive(chosen, stopped)
    drive(chosen, at_once)
    trials = study(chosen).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 16
    assert study(chosen).best_value > 0.75
    assert [changes(stopped, number) for number in range(16)] == [changes(at_once, number) for number in range(16)]


def test_the_objective_is_the_mean_over_seeds_and_failures_are_told(options: Options) -> None:
    chosen = options(search(3, seeds=2), {"trial-001/seed-1": "fail"})
    report = run_sweep(chosen)
    assert report.failed
    states = [trial.state.name for trial in study(chosen).trials]
    assert states == ["COMPLETE", "FAIL", "COMPLETE"]
    row = next(line for line in (chosen.workdir / "table.csv").read_text().splitlines() if line.startswith("trial-000"))
    assert float(row.split(",")[4]) == pytest.approx(study(chosen).trials[0].value)
    assert "**trial-" in (chosen.workdir / "table.md").read_text()
    assert any(line.startswith("failed: trial-001/seed-1: exit status 1") for line in report.lines)


def test_a_trial_that_was_stopped_is_gone_on_with(options: Options) -> None:
    chosen = options(search(2, seeds=2))
    chosen.workdir.mkdir()
    sweep = load_sweep(chosen.file)

    def source() -> SearchSource:
        return SearchSource(sweep, (), chosen.workdir, lambda _: 0.5)

    first = source()
    run = first.take()
    assert run is not None
    assert first.left() == 3
    first.ended(run, Outcome("stopped"))
    second = source()
    again = [second.take(), second.take()]
    assert [r.name for r in again if r] == ["trial-000/seed-0", "trial-000/seed-1"]
    assert again[0] == run
    for each in again:
        assert each is not None
        second.ended(each, Outcome("done"))
    last = [second.take(), second.take(), second.take()]
    assert [r and r.name for r in last] == ["trial-001/seed-0", "trial-001/seed-1", None]


def test_impossible_trials_teach_the_study_and_stand_in_the_table(options: Options) -> None:
    crossed = (
        'search=Search({"model.image.patch": choice(16, 32), "model.image.height": choice(32, 48)}, trials=8, seed=0)'
    )
    report = run_sweep(options(crossed))
    refused = [line for line in report.lines if line.startswith("failed: trial-")]
    assert refused
    assert all("model.image.height 48 is not divisible" in line for line in refused)


def test_another_search_or_metric_is_refused(options: Options) -> None:
    run_sweep(options(search(1)))
    with pytest.raises(UserError, match="the search was begun with the metric r_precision, and now it is mrr"):
        run_sweep(options(search(1) + ', metric="mrr"'))
    with pytest.raises(UserError, match="with the space"):
        run_sweep(options(search(1).replace("1e-6", "1e-5")))


def test_without_optuna_the_remedy_is_named(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = options(search(1))
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"pip install 'make_jax\[search\]'"):
        run_sweep(chosen)
    assert not chosen.workdir.exists()
    with pytest.raises(UserError, match="--launcher slurm: a search needs each result"):
        run_sweep(options(search(1), launcher="slurm"))
