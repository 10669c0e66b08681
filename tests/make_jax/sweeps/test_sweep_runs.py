"""What happens to the runs of a sweep: they fail, are killed, stopped and gone on with, side by side or in turn."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fake_sweep import FAKE, RATES, Options

from make_jax.commands.sweep import SweepOptions, run_sweep
from make_jax.errors import UserError
from make_jax.sweeps.budget import pace, steps_within, windows
from make_jax.sweeps.folders import RunFolder
from make_jax.sweeps.plan import PlannedRun, load_sweep, plan_variants


def runs(options: SweepOptions) -> dict[str, dict[str, str]]:
    with (options.workdir / "runs.csv").open() as file:
        return {f"{row['variant']}/seed-{row['seed']}": row for row in csv.DictReader(file)}


def log(options: SweepOptions, name: str) -> str:
    return (options.workdir / "runs" / name / "log.txt").read_text()


def test_every_run_is_made_once_and_the_table_is_sorted(options: Options) -> None:
    chosen = options()
    report = run_sweep(chosen)
    assert not report.failed
    assert report.lines[0].startswith("r_precision 0.8050 ± 0.0071  good (2 seeds")
    assert report.lines[-1] == "4 of 4 runs done"
    assert {row["state"] for row in runs(chosen).values()} == {"done"}
    assert float(runs(chosen)["good/seed-1"]["r_precision"]) == pytest.approx(0.81)
    assert runs(chosen)["good/seed-0"]["commit"] == "abc"
    before = log(chosen, "good/seed-1")
    assert run_sweep(chosen).lines[-1] == "4 of 4 runs done"
    assert log(chosen, "good/seed-1") == before
    assert "| **good** | **0.8050 ± 0.0071** |" in (chosen.workdir / "table.md").read_text()


def test_failed_runs_hurt_no_others_and_are_tried_again(options: Options) -> None:
    bad = {"low/seed-0": "fail", "low/seed-1": "kill", "good/seed-1": "refuse"}
    chosen = options(behaviour=bad)
    report = run_sweep(chosen)
    assert report.failed
    found = runs(chosen)
    assert [row["state"] for row in found.values()].count("failed") == 3
    assert found["low/seed-0"]["reason"].endswith("from step 0 / ValueError: the loss is too high")
    assert "exit status 1" in found["low/seed-0"]["reason"]
    assert found["low/seed-1"]["reason"].startswith("killed by SIGKILL (out of memory?)")
    assert found["good/seed-1"]["reason"] == "exit status 2: make-jax: error: the data does not fit; use other data"
    assert found["good/seed-0"]["state"] == "done"
    assert any(line.startswith("failed: good/seed-1: exit status 2") for line in report.lines)
    page = (chosen.workdir / "table.html").read_text()
    assert "seed 1 failed" in page
    assert "killed by SIGKILL" in page
    again = options()
    assert not run_sweep(again).failed
    assert "from step 3" in log(again, "low/seed-0")
    assert {row["state"] for row in runs(again).values()} == {"done"}


def spawn(chosen: SweepOptions) -> subprocess.Popen[str]:
    code = (
        "import logging, sys; from pathlib import Path; logging.basicConfig(level=logging.INFO)\n"
        "from make_jax.commands.sweep import *\n"
        f"chosen = SweepOptions(Path({str(chosen.file)!r}), {chosen.data!r}, Path({str(chosen.workdir)!r}),\n"
        f"    jobs={chosen.jobs}, program={FAKE!r})\n"
        "report = run_sweep(chosen); print('\\n'.join(report.lines)); sys.exit(report.failed)"
    )
    root = str(Path(__file__).parents[3])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def training(chosen: SweepOptions, name: str) -> bool:
    path = chosen.workdir / "runs" / name / "run" / "metrics.jsonl"
    return path.exists() and path.stat().st_size > 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_told_to_stop_the_runs_save_and_go_on_later(options: Options, number: int) -> None:
    chosen = options(RATES, {"low/seed-0": "hang", "good/seed-0": "hang"}, jobs=2)
    process = spawn(chosen)
    wait_until(lambda: training(chosen, "low/seed-0") and training(chosen, "good/seed-0"))
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "stopped and saved; the same command goes on from there" in output
    states = {name: row["state"] for name, row in runs(chosen).items()}
    assert states == {
        "good/seed-0": "stopped", "low/seed-0": "stopped", "good/seed-1": "missing", "low/seed-1": "missing"
    }  # fmt: skip
    again = options()
    run_sweep(again)
    assert {row["state"] for row in runs(again).values()} == {"done"}
    assert log(again, "low/seed-0").count("from step 0") == 1


def test_a_run_that_a_killed_sweep_left_behind_is_not_trained_twice(options: Options) -> None:
    chosen = options(RATES, {"low/seed-0": "hang"})
    process = spawn(chosen)
    wait_until(lambda: training(chosen, "low/seed-0"))
    process.kill()
    process.communicate()
    variant = plan_variants(load_sweep(chosen.file), ())[0]
    folder = RunFolder(chosen.workdir, PlannedRun(variant, 0))
    assert folder.is_locked()
    again = options()
    report = run_sweep(again)
    assert report.lines[-1] == "3 of 4 runs done"
    assert runs(again)["low/seed-0"]["state"] == "running"
    orphans = [path for path in Path("/proc").glob("[0-9]*") if is_training(path, folder)]
    for orphan in orphans:
        os.kill(int(orphan.name), signal.SIGTERM)
    assert len(orphans) == 1
    wait_until(lambda: not folder.is_locked())
    run_sweep(again)
    assert {row["state"] for row in runs(again).values()} == {"done"}


def is_training(process: Path, folder: RunFolder) -> bool:
    try:
        return str(folder.experiment) in (process / "cmdline").read_text()
    except OSError:
        return False


def test_runs_work_side_by_side_each_on_a_gpu_of_its_own(options: Options) -> None:
    chosen = options(RATES, {"low/seed-0": "hang", "good/seed-0": "hang"}, gpus="3,5")
    thread = threading.Thread(target=stop_when_both_train, args=(chosen,))
    thread.start()
    run_sweep(chosen)
    thread.join()
    told = [log(chosen, f"{name}/seed-0").splitlines()[1] for name in ("low", "good")]
    assert told == ["training low/seed-0: hang 3", "training good/seed-0: hang 5"]


def stop_when_both_train(chosen: SweepOptions) -> None:
    wait_until(lambda: training(chosen, "low/seed-0") and training(chosen, "good/seed-0"))
    os.kill(os.getpid(), signal.SIGTERM)


def test_with_a_budget_all_seeds_take_the_steps_that_fit(options: Options) -> None:
    content = (
        'variants={"slow": {"optimizer.weight_decay": 0.02}, "fast": {"optimizer.weight_decay": 0.005}}, '
        "seeds=2, minutes=0.02"
    )
    chosen = options(content)
    run_sweep(chosen)
    found = runs(chosen)
    steps = {name: int(row["steps"]) for name, row in found.items()}
    # 1.2 seconds at the pace of the windows, without the half second of the first one.
    assert steps == {"slow/seed-0": 60, "slow/seed-1": 60, "fast/seed-0": 240, "fast/seed-1": 240}
    assert float(found["slow/seed-0"]["seconds"]) == pytest.approx(1.2)
    assert float(found["slow/seed-0"]["compile_seconds"]) == pytest.approx(0.5)
    assert float(found["fast/seed-1"]["examples_per_second"]) == pytest.approx(16 / 0.005)
    record = json.loads((chosen.workdir / "runs" / "slow" / "steps.json").read_text())
    assert record["seconds_per_step"] == pytest.approx(0.02)
    assert not list(chosen.workdir.glob("runs/*/probe-*"))
    assert log(chosen, "slow/seed-0").count("$ ") == 2
    assert log(chosen, "slow/seed-1").count("$ ") == 1
    with pytest.raises(UserError, match=r"variant slow.*0\.02 minutes, and now it is 5 minutes"):
        run_sweep(options(content, minutes=5.0))
    with pytest.raises(UserError, match=r"training\.steps.*budget"):
        run_sweep(options(content, overrides=("training.steps=5",)))


def test_a_probe_that_fails_fails_the_run(options: Options) -> None:
    chosen = options('variants={"a": {}}, minutes=1', {"a/seed-0": "refuse"})
    assert run_sweep(chosen).failed
    assert "the data does not fit" in runs(chosen)["a/seed-0"]["reason"]


def test_windows_are_the_steps_between_log_lines() -> None:
    records = [{"step": 1}, {"step": 2, "seconds": 5.0}, {"step": 3}, {"step": 4, "seconds": 1.0}]
    assert windows(records) == [(2, 5.0), (2, 1.0)]
    assert pace(windows(records)) == 0.5
    assert pace(windows(records)[:1]) is None
    assert steps_within(1, 0.5) == 120
    assert steps_within(1, 1000) == 1


def test_evaluation_gives_segments_conditions_and_intervals(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    judged = {"products": ("p",), "queries": "q", "qrels": "r", "without": ("images",)}
    seen: list[tuple[Any, Any]] = []

    class Bootstrap:
        @staticmethod
        def paired_bootstrap(ours: Any, theirs: Any) -> tuple[float, float, float]:
            seen.append((ours, theirs))
            return float((ours - theirs).mean()), 0.1, 0.9

    monkeypatch.setitem(sys.modules, "make_jax.retrieval.bootstrap", Bootstrap)
    plain = options(baseline="low")
    run_sweep(plain)
    assert "no interval without metrics by query" in (plain.workdir / "table.md").read_text()
    chosen = options(baseline="low", **judged)
    assert run_sweep(chosen).lines[-1] == "4 of 4 runs done"
    row = runs(chosen)["good/seed-1"]
    assert float(row["without images: r_precision"]) == pytest.approx(0.405)
    assert float(row["bm25: r_precision"]) == pytest.approx(0.1)
    assert float(row["r_precision, facet: colour"]) == pytest.approx(0.81)
    assert float(row["r_precision, picture: none, matched"]) == pytest.approx(0.81)
    assert not list(chosen.workdir.rglob("products.parquet"))
    ((ours, theirs),) = seen
    assert ours.shape == theirs.shape == (2, 2)  # query c has no value
    assert ours[1].tolist() == pytest.approx([0.71, 0.91])
    text = (chosen.workdir / "table.md").read_text()
    assert "+0.4000 [+0.1000, +0.9000]*" in text
    before = log(chosen, "good/seed-1")
    run_sweep(chosen)
    assert log(chosen, "good/seed-1") == before
    with pytest.raises(UserError, match="go together"):
        run_sweep(options(queries="q"))
    with pytest.raises(UserError, match="--without"):
        run_sweep(options(without=("images",)))


def test_other_settings_other_data_and_foreign_folders_are_refused(options: Options, tmp_path: Path) -> None:
    chosen = options()
    run_sweep(chosen)
    changed = RATES.replace("1e-5", "1e-4")
    with pytest.raises(UserError, match=r"variant low.*learning_rate 1e-05 there, 0\.0001 here.*remove .*runs/low"):
        run_sweep(options(changed))
    run_sweep(options(RATES, overrides=("training.log_every=1",)))  # a habit
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UserError, match="the data of this folder"):
        run_sweep(SweepOptions(chosen.file, (str(other),), chosen.workdir))
    (other / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no sweep"):
        run_sweep(SweepOptions(chosen.file, chosen.data, other))
    assert [path.name for path in other.iterdir()] == ["notes.txt"]


def test_only_some_runs_and_collecting_later(options: Options) -> None:
    chosen = options(only=("good",))
    assert run_sweep(chosen).lines[-1] == "2 of 2 runs done"
    assert run_sweep(options(only=("*/seed-0",))).lines[-1] == "2 of 2 runs done"
    report = run_sweep(options(collect=True))
    assert report.lines[-1] == "3 of 4 runs done"
    assert not report.failed
    assert runs(chosen)["low/seed-1"]["state"] == "missing"
    with pytest.raises(UserError, match="did you mean good"):
        run_sweep(options(only=("goood",)))


def test_a_dry_run_touches_nothing(options: Options) -> None:
    chosen = options(dry_run=True)
    lines = run_sweep(chosen).lines
    assert lines[0] == "low/seed-0: to run (optimizer.learning_rate=1e-05)"
    assert "make-jax train" in lines[1]
    assert not chosen.workdir.exists()


def test_runs_at_a_time_are_no_fair_race(options: Options, caplog: pytest.LogCaptureFixture) -> None:
    run_sweep(options(RATES, minutes=0.001, jobs=2, dry_run=True))
    assert "equal minutes are not equal work" in caplog.text
    with pytest.raises(UserError, match="--gpus"):
        run_sweep(options(gpus="1,1"))


def test_many_runs_of_one_variant_at_a_time_do_not_disturb_each_other(options: Options) -> None:
    chosen = options('variants={"a": {"optimizer.weight_decay": 0.01}}, seeds=6, minutes=0.005', jobs=6)
    assert run_sweep(chosen).lines[-1] == "6 of 6 runs done"
    # One of them has measured, the others waited for it.
    assert sum(log(chosen, f"a/seed-{seed}").count("$ ") for seed in range(6)) == 7
    assert len({row["steps"] for row in runs(chosen).values()}) == 1
