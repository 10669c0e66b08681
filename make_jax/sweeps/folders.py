"""A sweep's directory, and what is recorded there.

```
WORKDIR/sweep.json                       the sweep's file, data and where it began
        runs/VARIANT/variant.json        its name and what it changes
                     steps.json          with a budget: the steps that fit into it, and how that was measured
                     seed-0/experiment.json  what make-jax train is given
                            log.txt      all that its processes printed
                            status.json  how the last attempt ended
                            run/         the run directory
                            report/      with judgements: what make-jax evaluate wrote
        table.md  table.csv  table.html  runs.csv
```
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from make_jax.errors import UserError
from make_jax.overrides import load_experiment, to_json
from make_jax.run import differences, provenance
from make_jax.small_files import read_object, write_text
from make_jax.sweeps.plan import PlannedRun, Variant

_LONGEST = 80
_PATIENCE = 0.5  # seconds: who only looks whether a lock is taken holds it for an instant


class RunFolder:
    """The place of one run of a sweep; nothing is made until something is written."""

    def __init__(self, workdir: Path, run: PlannedRun) -> None:
        self.variant = variant_folder(workdir, run.variant.name)
        self.path = self.variant / f"seed-{run.seed}"
        self.run = self.path / "run"
        self.vectors = self.path / "products.parquet"
        self.log = self.path / "log.txt"
        self.experiment = self.path / "experiment.json"

    @property
    def is_trained(self) -> bool:
        """Whether training came to its end."""
        return (self.run / "result.json").exists()

    @property
    def has_begun(self) -> bool:
        """Whether there is a run to go on with."""
        return (self.run / "experiment.json").exists()

    def report(self, condition: str = "") -> Path:
        """Where the evaluation lies, of the whole catalogue or without "images" or "titles"."""
        return self.path / (f"report-without-{condition}" if condition else "report")

    def is_judged(self, condition: str, arguments: list[str]) -> bool:
        """Whether a report is there and was made with these arguments of evaluate."""
        made_with = self.status().get("judged_with", {}).get(condition)
        return (self.report(condition) / "metrics.json").exists() and made_with == arguments

    def record_judged(self, condition: str, arguments: list[str]) -> None:
        """Remember what a report was made with."""
        self.write_status(judged_with={**self.status().get("judged_with", {}), condition: arguments})

    def status(self) -> dict[str, Any]:
        """How the last attempt ended: state, reason, seconds; empty if there was none."""
        return read_json(self.path / "status.json")

    def write_status(self, **values: Any) -> None:
        """Change what is recorded of the run."""
        write_json(self.path / "status.json", self.status() | values)

    @contextmanager
    def locked(self) -> Iterator[int | None]:
        """Gives the lock's file descriptor, or None where another process is at this run.

        A child that inherits the descriptor keeps the lock, even if this process is killed: nobody trains the same
        run twice at once.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("w") as file:
            yield file.fileno() if _lock(file, _PATIENCE) else None

    def is_locked(self) -> bool:
        """Whether some process is at this run now."""
        if not (self.path / "lock").exists():
            return False
        with (self.path / "lock").open("w") as file:
            return not _lock(file, 0.0)


def _lock(file: TextIO, patience: float) -> bool:
    """Take a lock, or give up after so many seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.05)


def variant_folder(workdir: Path, name: str) -> Path:
    """Where a variant's runs are: its name as a path component that is safe on every file system."""
    safe = re.sub(r"[^A-Za-z0-9_.=,+-]+", "_", name)[:_LONGEST]
    if safe != name or name.startswith(".") or name.endswith("."):
        safe = f"{safe.strip('.')}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return workdir / "runs" / safe


def write_variant(workdir: Path, variant: Variant) -> None:
    """Record what a variant is, for tables that are made without the sweep file's search."""
    write_json(
        variant_folder(workdir, variant.name) / "variant.json",
        {"name": variant.name, "changes": dict(variant.changes)},
    )


def write_experiment(folder: RunFolder, run: PlannedRun, steps: int | None) -> None:
    """Write what make-jax train is given."""
    write_text(folder.experiment, to_json(run.experiment(steps)))


def check_unchanged(folder: RunFolder, run: PlannedRun, minutes: float | None) -> None:
    """Refuse a run that was begun as another experiment or with another budget; raises UserError."""
    if not folder.has_begun:
        return
    remedy = f"choose another --workdir, or remove {folder.variant} to train it anew"
    budget = read_json(folder.variant / "steps.json")
    before = budget.get("minutes") if budget else None
    if before != minutes:
        was, now = (f"{m:g} minutes" if m else "the experiment's own steps" for m in (before, minutes))
        raise UserError(f"variant {run.variant.name}: its runs were begun with {was}, and now it is {now}; {remedy}")
    now_planned = run.experiment(budget["steps"] if budget else None)
    different = differences(load_experiment(folder.experiment), now_planned)
    if different:
        raise UserError(
            f"variant {run.variant.name}: its runs were begun with other settings ({'; '.join(different[:3])}); "
            f"{remedy}"
        )


def open_workdir(workdir: Path, name: str, file: Path, data: list[str]) -> None:
    """Make a sweep's directory, or check that the one there belongs to this sweep and data.

    Raises:
      UserError: it does not, or something else is there.
    """
    check_workdir(workdir, name, data)
    if not (workdir / "sweep.json").exists():
        write_json(workdir / "sweep.json", {"sweep": name, "file": str(file), "data": data, **provenance()})


def check_workdir(workdir: Path, name: str, data: list[str]) -> None:
    """As `open_workdir`, but writes nothing."""
    if workdir.exists() and not workdir.is_dir():
        raise UserError(f"{workdir}: this is a file, a sweep needs a folder; choose another --workdir")
    if not (workdir / "sweep.json").exists():
        if workdir.exists() and any(workdir.iterdir()):
            raise UserError(f"{workdir}: this folder is not empty and holds no sweep; choose another --workdir")
        return
    record = read_json(workdir / "sweep.json")
    for what, before, now in (("sweep", record.get("sweep"), name), ("data", record.get("data"), data)):
        if before != now:
            raise UserError(
                f"{workdir}: the {what} of this folder is {before!r}, and now it is {now!r}; choose another --workdir"
            )


def read_json(file: Path) -> dict[str, Any]:
    """A record, empty if there is none; raises UserError where it is damaged."""
    return read_object(file, f"remove {file.parent} to make it anew") if file.exists() else {}


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a record whole or not at all; runs of one variant may do so at the same time."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
