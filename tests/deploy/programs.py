"""Stand-ins on PATH for programs of clusters and clouds, which note how they are called."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCRIPTS = [DEPLOY / name for name in ("install", "processes", "slurm.sbatch", "host", "tpu", "gke")]


class Programs:
    """A folder in front of PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._calls = folder, folder / "calls"
        self._calls.touch()

    def add(self, name: str, body: str = "exit 0") -> None:
        """A program that notes its arguments and then does `body`, in bash; $HERE is the folder."""
        path = self.folder / name
        # In one piece, for others note theirs at the same time.
        note = f"""noted=$(printf '%s\\x1f' {name} "$@"); printf '%s\\x1e' "$noted" >>'{self._calls}'"""
        path.write_text(f"#!/usr/bin/env bash\nHERE='{self.folder}'\n{note}\n{body}\n")
        path.chmod(0o755)

    def calls(self, name: str | None = None) -> list[list[str]]:
        """All calls, or those of one program, in turn: its name and arguments."""
        noted = [record.split("\x1f")[:-1] for record in self._calls.read_text().split("\x1e")[:-1]]
        return [call for call in noted if name is None or call[0] == name]

    def environment(self, **settings: str) -> dict[str, str]:
        return {"PATH": f"{self.folder}:{os.environ['PATH']}", "HOME": str(self.folder), "POLL_SECONDS": "0"} | settings


def call(script: str, *arguments: str, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", DEPLOY / script, *arguments], env=dict(environment), capture_output=True, text=True, timeout=60
    )


def dry_run(script: str, *arguments: str, environment: Mapping[str, str]) -> list[list[str]]:
    """The commands that a script says it would run."""
    done = call(script, *arguments, environment=dict(environment) | {"DRY_RUN": "1"})
    assert done.returncode == 0, done.stderr
    return [shlex.split(line) for line in done.stdout.splitlines()]


def options(command: list[str]) -> dict[str, str]:
    """Those of the form --name=value."""
    return dict(word[2:].split("=", 1) for word in command if word.startswith("--") and "=" in word)
