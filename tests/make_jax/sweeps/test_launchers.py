"""The same runs elsewhere: printed, submitted, and collected."""

from __future__ import annotations

import shlex
import sys

import pytest
from fake_sweep import FAKE, RATES, Options

from make_jax.commands.sweep import run_sweep
from make_jax.errors import UserError
from make_jax.sweeps import launchers


def test_printed_lines_make_one_run_each_with_everything_that_decides_it(options: Options) -> None:
    chosen = options(
        RATES.replace('"good"', '"it\'s good"'), launcher="print", minutes=2.5, overrides=("data.flip=true",),
        baseline="low", products=("p-*.parquet",), queries="q", qrels="r", without=("titles",),
        evaluate_options="--x 1",
    )  # fmt: skip
    lines = run_sweep(chosen).lines
    assert len(lines) == 4
    words = shlex.split(lines[1])
    assert words[:3] == ["make-jax", "sweep", str(chosen.file)]
    told = dict(zip(words[3:-1:2], words[4:-1:2], strict=True))
    assert told == {
        "--data": chosen.data[0], "--workdir": str(chosen.workdir), "--set": "data.flip=true", "--minutes": "2.5",
        "--baseline": "low", "--products": "p-*.parquet", "--without": "titles", "--queries": "q", "--qrels": "r",
        "--evaluate": "--x 1", "--only": "it's good/seed-0",
    }  # fmt: skip
    assert words[-1] == "--no-table"


def test_runs_made_elsewhere_are_collected(options: Options) -> None:
    for name in ("low/seed-0", "good/seed-1"):
        run_sweep(options(only=(name,), table=False))
    chosen = options(collect=True)
    assert not (chosen.workdir / "table.md").exists()
    assert run_sweep(chosen).lines[-1] == "2 of 4 runs done"
    assert (chosen.workdir / "table.md").exists()
    left = run_sweep(options(launcher="print")).lines
    assert [shlex.split(line)[-2] for line in left] == ["good/seed-0", "low/seed-1"]


def test_tpu_machines_share_the_runs(options: Options) -> None:
    chosen = options(launcher="tpu-vm", tpu=("pod-a", "pod-b"), zone="us-east5-b", before="cd 'my code'")
    lines = run_sweep(chosen).lines
    assert [line for line in lines if line.startswith("#")] == ["# pod-a: 2 runs, in turn", "# pod-b: 2 runs, in turn"]
    words = shlex.split(lines[1])
    assert words[:9] == [
        "gcloud", "compute", "tpus", "tpu-vm", "ssh", "pod-a", "--zone=us-east5-b", "--worker=all", words[8],
    ]  # fmt: skip
    remote = words[8].removeprefix("--command=")
    assert remote.startswith("cd 'my code' && make-jax train ")
    experiment = shlex.split(remote)[5]
    assert experiment.endswith("low/seed-0/experiment.json")
    assert (chosen.workdir / "runs" / "low" / "seed-0" / "experiment.json").exists()
    assert run_sweep(options(collect=True)).lines[-1] == "0 of 4 runs done"
    with pytest.raises(UserError, match="--tpu NAME"):
        run_sweep(options(launcher="tpu-vm"))
    with pytest.raises(UserError, match="leave out the minutes"):
        run_sweep(options(launcher="tpu-vm", tpu=("a",), minutes=1.0))


def test_a_dry_run_submits_and_writes_nothing(options: Options) -> None:
    for launcher, more in (("slurm", {}), ("tpu-vm", {"tpu": ("a",)})):
        chosen = options(launcher=launcher, dry_run=True, **more)
        assert sum("low/seed-0" in line for line in run_sweep(chosen).lines) == 1
        assert not chosen.workdir.exists()


def test_jobs_are_submitted_and_run(options: Options) -> None:
    """By submitit's executor for this machine, which starts jobs as Slurm would."""
    chosen = options(only=("good/seed-0",))
    run_sweep(chosen)  # for the experiment's file
    experiment = chosen.workdir / "runs" / "good" / "seed-0" / "experiment.json"
    commands = {
        name: ["train", str(experiment), "--data", chosen.data[0], "--workdir", str(chosen.workdir / name)]
        for name in ("first", "second")
    }
    settings = launchers.slurm_settings(["cluster=local", "timeout_min=5"])
    jobs = launchers.submit(commands, chosen.workdir / "slurm", settings, FAKE)
    assert list(jobs) == ["first", "second"]
    for name, job in jobs.items():
        assert "training good/seed-0" in job.result()
        assert (chosen.workdir / name / "result.json").exists()


def test_slurm_settings_are_checked(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    assert launchers.slurm_settings(["slurm_partition=gpu", "timeout_min=60"]) == {
        "cluster": "slurm", "slurm_partition": "gpu", "timeout_min": 60
    }  # fmt: skip
    for options_, part in ((["x"], "key=value"), (["cluster=moon"], "cluster=moon")):
        with pytest.raises(UserError, match=part):
            launchers.slurm_settings(options_)
    with pytest.raises(UserError, match="check the --slurm options"):
        run_sweep(options(launcher="slurm", slurm=("cluster=debug", "no_such_thing=1")))
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'make_jax\[slurm\]'"):
        run_sweep(options(launcher="slurm"))
