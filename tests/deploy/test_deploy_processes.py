"""deploy/processes: who is started how, and what it does when one ends."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path

import pytest
from programs import DEPLOY, Programs, call, dry_run

ARGUMENTS = ["experiments/tiny.py", "--data", "d", "--workdir", "r"]
# Ends with the code that the first line left of a file says; the number of the process is the last argument.
CODES = 'file="$HERE/codes-${*: -1}"; code="$(head -n 1 "$file")"; sed -i 1d "$file"; echo "saying $*"; exit "$code"'


def machine(programs: Programs, tmp_path: Path, *codes: str, gpus: int = 0) -> dict[str, str]:
    programs.add("make-jax", CODES)
    programs.add("nvidia-smi", f"for i in $(seq {gpus}); do echo GPU $i; done")
    for number, lines in enumerate(codes):
        (programs.folder / f"codes-{number}").write_text(lines.replace(" ", "\n") + "\n")
    return programs.environment(LOGS=str(tmp_path / "logs"), GRACE_SECONDS="1")


@pytest.mark.parametrize("gpus", [0, 2, 8])
def test_each_process_knows_who_it_is(gpus: int, programs: Programs, tmp_path: Path) -> None:
    started = dry_run("processes", "2", *ARGUMENTS, environment=machine(programs, tmp_path, gpus=gpus))
    coordinators = set()
    for number, words in enumerate(started):
        own = [f"CUDA_VISIBLE_DEVICES={number}"] if gpus else []
        position = len(own) + 9
        assert words[:position] == ["env", *own, "make-jax", "train", *ARGUMENTS, "--stopped-code"]
        coordinators.add(words[position + 2])
        assert words[position + 3 :] == ["--processes", "2", "--process-id", str(number)]
    assert len(coordinators) == 1
    assert not (tmp_path / "logs").exists()


def test_too_few_gpus_are_said(programs: Programs, tmp_path: Path) -> None:
    done = call("processes", "4", *ARGUMENTS, environment=machine(programs, tmp_path, gpus=2))
    assert done.returncode == 2
    assert "4 processes need as many GPUs, and there are 2" in done.stderr


@pytest.mark.parametrize(
    ("codes", "code", "starts"),
    [
        (("0", "0"), 0, 2),
        (("75", "75"), 75, 2),
        (("2", "2"), 2, 2),
        (("1 0", "0 0"), 0, 4),
        (("0 0 0 0 0", "9 9 9 9 9"), 9, 8),
    ],
)
def test_failures_are_started_again(
    codes: tuple[str, ...], code: int, starts: int, programs: Programs, tmp_path: Path
) -> None:
    done = call("processes", "2", *ARGUMENTS, environment=machine(programs, tmp_path, *codes))
    assert done.returncode == code, done.stderr
    assert len(programs.calls("make-jax")) == starts
    assert "--process-id 0" in done.stdout
    assert "--process-id 1" not in done.stdout
    assert "--process-id 1" in (tmp_path / "logs" / "process-1.log").read_text()


def test_those_that_a_failed_one_leaves_waiting_are_ended(programs: Programs, tmp_path: Path) -> None:
    environment = machine(programs, tmp_path) | {"RESTARTS": "0"}
    programs.add("make-jax", '[ "${*: -1}" = 0 ] && exit 3; exec sleep 50')
    began = time.monotonic()
    assert call("processes", "2", *ARGUMENTS, environment=environment).returncode == 3
    assert time.monotonic() - began < 30


def test_sigterm_reaches_all_and_ends_it(programs: Programs, tmp_path: Path) -> None:
    environment = machine(programs, tmp_path)
    programs.add("make-jax", 'trap "exit 75" TERM; touch "$HERE/up-${*: -1}"; while :; do sleep 0.05; done')
    process = subprocess.Popen(["bash", DEPLOY / "processes", "2", *ARGUMENTS], env=environment)
    deadline = time.monotonic() + 60
    while len(list(programs.folder.glob("up-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    assert len(programs.calls("make-jax")) == 2
