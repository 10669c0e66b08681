"""How the tests of whole commands run them and read what they say."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner, Result

from make_jax.cli import main
from make_jax.run import read_metrics

# For processes that compile more than they train.
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
TINY = str(Path(__file__).parents[2] / "experiments" / "tiny.py")


def call(*arguments: object) -> Result:
    """A command in this process: quick, and the same code path as the console script."""
    return CliRunner().invoke(main, [str(a) for a in arguments], catch_exceptions=True)


def refused(result: Result, *parts: str) -> str:
    """The one line of an error that the user can mend."""
    assert result.exit_code == 2, (result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("make-jax: error: ")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    for part in parts:
        assert part in lines[0]
    return lines[0]


def spawn(*arguments: object) -> subprocess.Popen[str]:
    """A command in a process with one device."""
    environment = os.environ | {"XLA_FLAGS": FAST_COMPILE}
    return subprocess.Popen(
        [sys.executable, "-m", "make_jax", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def losses(run: Path) -> dict[int, float]:
    return {r["step"]: r["loss"] for r in read_metrics(run / "metrics.jsonl") if "loss" in r}


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Everything that a process printed, once it has ended as expected."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == code, output
    return output


def wait_until(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 240
    while not holds():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for_step(process: subprocess.Popen[str], run: Path, step: int) -> None:
    wait_until(process, lambda: max(losses(run), default=0) >= step)
