"""deploy/slurm.sbatch: what srun is told, and when the job goes back into the queue."""

from __future__ import annotations

import re

import pytest
from programs import DEPLOY, ROOT, Programs, call, dry_run

from make_jax.cli.training import train

ARGUMENTS = ["experiments/base.py", "--data", "d", "--workdir", "r"]


def cluster(programs: Programs, code: int = 0, state: str = "RUNNING", **settings: str) -> dict[str, str]:
    programs.add("srun", f'printenv >"$HERE/environment"; exit {code}')
    programs.add("scontrol", f'[ "$1" = requeue ] || echo "JobId=7 JobName=make-jax JobState={state} Reason=None"')
    return programs.environment(SLURM_JOB_ID="7", SLURM_SUBMIT_DIR=str(ROOT), VENV="/none", **settings)


def told_srun(programs: Programs) -> dict[str, str]:
    lines = (programs.folder / "environment").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)


def test_srun_starts_one_training(programs: Programs) -> None:
    done = call("slurm.sbatch", *ARGUMENTS, environment=cluster(programs))
    assert done.returncode == 0, done.stderr
    assert programs.calls() == [
        ["srun", "--kill-on-bad-exit=0", "make-jax", "train", *ARGUMENTS, "--stopped-code", "75"]
    ]
    train.make_context("train", programs.calls()[0][4:])
    assert dry_run("slurm.sbatch", *ARGUMENTS, environment=cluster(programs)) == programs.calls()


@pytest.mark.parametrize(
    ("code", "state", "restarts", "again"),
    [
        (0, "RUNNING", 0, False),
        (2, "RUNNING", 0, False),
        (75, "RUNNING", 0, True),
        (75, "RUNNING", 99, True),  # a time limit is no failure
        (75, "CANCELLED", 0, False),  # scancel
        (75, "COMPLETING", 0, False),  # preempted: Slurm itself puts it back
        (137, "RUNNING", 19, True),
        (137, "RUNNING", 20, False),
    ],
)
def test_when_the_job_goes_back_into_the_queue(
    code: int, state: str, restarts: int, again: bool, programs: Programs
) -> None:
    environment = cluster(programs, code, state, SLURM_RESTART_COUNT=str(restarts))
    assert call("slurm.sbatch", *ARGUMENTS, environment=environment).returncode == code
    assert (["scontrol", "requeue", "7"] in programs.calls()) == again


@pytest.mark.parametrize(("tasks", "gpus", "wanted"), [("1", "4", "0,1,2,3"), ("4", "4", None), ("1", "1", None)])
def test_a_single_process_of_a_node_has_all_its_gpus(
    tasks: str, gpus: str, wanted: str | None, programs: Programs
) -> None:
    settings = {"SLURM_NTASKS_PER_NODE": tasks, "SLURM_GPUS_ON_NODE": gpus, "SLURM_CPUS_PER_TASK": "12"}
    call("slurm.sbatch", *ARGUMENTS, environment=cluster(programs, **settings))
    told = told_srun(programs)
    assert told.get("JAX_LOCAL_DEVICE_IDS") == wanted
    assert told["SRUN_CPUS_PER_TASK"] == "12"


def test_what_is_asked_of_slurm() -> None:
    lines = (DEPLOY / "slurm.sbatch").read_text().splitlines()
    asked = dict(match.groups() for line in lines if (match := re.fullmatch(r"#SBATCH --([a-z-]+)=?(.*)", line)))
    assert asked["signal"] == "TERM@180"  # of the processes, not of the script: no "B:"
    assert asked["open-mode"] == "append"  # a job that goes back into the queue keeps its log
    assert {"requeue", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time"} <= asked.keys()
    first_command = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(i < first_command for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert int(asked["ntasks-per-node"]) == int(asked["gpus-per-node"])


def test_another_folder_is_refused(programs: Programs) -> None:
    done = call("slurm.sbatch", *ARGUMENTS, environment=cluster(programs) | {"SLURM_SUBMIT_DIR": "/"})
    assert done.returncode == 2
    assert "/ is not the folder of make_jax" in done.stderr
