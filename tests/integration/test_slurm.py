"""deploy/slurm.sbatch with an srun that starts two processes here: found by themselves, they make one run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import FAST_COMPILE, TINY, losses

ROOT = Path(__file__).parents[2]
SRUN = """#!/usr/bin/env bash
shift  # --kill-on-bad-exit
export SLURM_STEP_NODELIST=127.0.0.1 SLURM_STEP_NUM_NODES=1 SLURM_STEP_NUM_TASKS=2 SLURM_NTASKS=2
code=0
for task in 0 1; do
  SLURM_PROCID=$task SLURM_LOCALID=$task "$@" &
  tasks+=($!)
done
for task in "${tasks[@]}"; do
  wait "$task" || code=$?
done
exit $code
"""
FIRST_PORT = 65535 - 2**12 + 1  # jax takes this one for job 0, the next for job 1, ...


def job_with_a_free_port() -> int:
    for job in range(2**12):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", FIRST_PORT + job))
                return job
            except OSError:
                continue
    raise AssertionError("all ports are taken")


@pytest.mark.slow
def test_the_tasks_of_a_job_make_one_run(tiny_data: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    scripts = {
        "srun": SRUN,
        "make-jax": f'#!/bin/sh\nexec {sys.executable} -m make_jax "$@"\n',
        "scontrol": f"#!/bin/sh\necho $@ >>{tmp_path}/scontrol\n",
    }
    for name, content in scripts.items():
        (programs / name).write_text(content)
        (programs / name).chmod(0o755)
    environment = os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "VENV": "/none",
        "SLURM_JOB_ID": str(job_with_a_free_port()),
        "SLURM_SUBMIT_DIR": str(ROOT),
        "XLA_FLAGS": FAST_COMPILE,
    }
    run = tmp_path / "run"
    arguments = [TINY, "--data", tiny_data, "--workdir", run, "--set", "training.steps=2"]
    job = subprocess.Popen(
        ["bash", ROOT / "deploy" / "slurm.sbatch", *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        said, logged = job.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, signal.SIGKILL)  # the tasks, too
        raise
    assert job.returncode == 0, logged
    assert "trained 2 steps" in said
    assert "2 processes with 2 devices train as one" in logged
    assert list(losses(run)) == [1, 2]
    assert (run / "result.json").exists()
    assert not (tmp_path / "scontrol").exists()
