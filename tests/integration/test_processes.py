"""Several processes run one `make-jax train`: one run directory, one log, and the model that one would train."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import FAST_COMPILE, TINY, call, finish, losses, refused, wait_for_step

from make_jax.errors import UserError
from make_jax.run import open_run, read_metrics
from make_jax.training.hosts import is_one_of_many, join_processes


def start(run: Path, data: Path, *options: str) -> list[subprocess.Popen[str]]:
    """Two processes, of one device each."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    joined = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2"]
    command = [sys.executable, "-m", "make_jax", "train", TINY, "--data", str(data), "--workdir", str(run), *options]
    return [
        subprocess.Popen(
            [*command, *joined, "--process-id", str(number)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"XLA_FLAGS": FAST_COMPILE},
        )
        for number in range(2)
    ]


@pytest.mark.slow
def test_two_processes_make_one_run(tiny_data: Path, trained: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    first, second = start(run, tiny_data, "--set", "mesh.fsdp=2", "--set", "training.eval_every=15")
    said = finish(first)
    assert "trained 30 steps" in said
    assert "2 processes with 2 devices" in said
    assert "trained" not in finish(second)
    assert list(losses(run)) == list(range(1, 31))
    alone = losses(trained)
    np.testing.assert_allclose(list(losses(run).values())[:10], list(alone.values())[:10], rtol=1e-4)
    assert [r["step"] for r in read_metrics(run / "metrics.jsonl") if "dev/r_precision" in r] == [15, 30]
    ours, theirs = open_run(run).params, open_run(trained).params
    assert ours["title"]["tokens"]["embedding"].shape == theirs["title"]["tokens"]["embedding"].shape
    assert open_run(run).result["dev"]


def test_each_says_which_other_keeps_it_waiting() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    script = Path(__file__).with_name("watched_process.py")
    environment = os.environ | {"PYTHONPATH": str(script.parents[2])}
    processes = [
        subprocess.Popen(
            [sys.executable, script, port, str(number), "2", place], env=environment, stderr=subprocess.PIPE, text=True
        )
        for number, place in enumerate(("devices", "input"))
    ]
    first, second = (process.communicate(timeout=300)[1] for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert "step 9: waiting for the devices" in first
    assert "by process 0; process 1 waits for input of step 9 (by process 1)" in first
    assert "process 0 waits for the devices, which have not done what was launched of step 9" in second


@pytest.mark.slow
def test_sigterm_to_one_of_them_stops_and_saves_all(tiny_data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    # While an earlier save is under way, as like as not.
    settings = ("training.steps=100000", "training.checkpoint_every=2", "training.ema_decay=0.9")
    options = [part for setting in settings for part in ("--set", setting)]
    processes = start(run, tiny_data, *options, "--stopped-code", "75")
    wait_for_step(processes[0], run, 5)
    processes[1].send_signal(signal.SIGTERM)
    said = finish(processes[0], 75)
    finish(processes[1], 75)
    assert "stopped and saved at step" in said
    step = max(losses(run))
    assert f"at step {step} of" in said
    assert (run / "checkpoints" / str(step)).is_dir()
    assert not (run / "result.json").exists()


def test_what_stops_the_first_stops_all(tiny_data: Path, tmp_path: Path) -> None:
    (tmp_path / "somebody's").touch()
    first, second = start(tmp_path, tiny_data)
    assert "this folder is not empty and holds no run" in finish(first, 2)
    assert "process 0 failed, and so the others stop" in finish(second, 2)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--processes", 2), ("--processes without --coordinator and --process-id",)),
        (("--coordinator", "here", "--processes", 2, "--process-id", 0), ("--coordinator here", "HOST:PORT")),
        (("--coordinator", "here:99", "--processes", 2, "--process-id", 2), ("--process-id 2", "from 0 to 1")),
    ],
)
def test_processes_that_cannot_meet_are_refused(
    options: tuple[object, ...], parts: tuple[str, ...], tiny_data: Path, tmp_path: Path
) -> None:
    refused(call("train", TINY, "--data", tiny_data, "--workdir", tmp_path / "run", *options), *parts)


def test_a_process_knows_whether_it_is_one_of_many(tmp_path: Path) -> None:
    assert is_one_of_many({"SLURM_STEP_NUM_TASKS": "4"})
    assert not is_one_of_many({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, tmp_path)  # sbatch, before srun
    assert not is_one_of_many({}, tmp_path)
    (tmp_path / "accel0").touch()
    assert not is_one_of_many({"JAX_PLATFORMS": "cpu"}, tmp_path)


def test_alone_is_alone_whatever_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(**_: object) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr("jax.distributed.initialize", find_nothing)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    join_processes(processes=1)
    with pytest.raises(UserError, match=r"the cluster's settings: the processes of this run did not find each other"):
        join_processes()


def test_others_that_do_not_come_are_no_fault_of_the_input(
    monkeypatch: pytest.MonkeyPatch, tiny_data: Path, tmp_path: Path
) -> None:
    def wait_in_vain(**_: object) -> None:
        raise RuntimeError("DEADLINE_EXCEEDED: Barrier timed out")

    monkeypatch.setattr("jax.distributed.initialize", wait_in_vain)
    joined = ("--coordinator", "here:99", "--processes", 2, "--process-id", 0)
    result = call("train", TINY, "--data", tiny_data, "--workdir", tmp_path / "run", *joined)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert "--coordinator here:99: the processes of this run did not find each other" in line
    assert not (tmp_path / "run").exists()
