"""Where a run's numbers go: a JSONL file, TensorBoard and the console's progress bar."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import TracebackType

from tensorboardX import SummaryWriter

from make_jax.run import read_metrics


class MetricsLog:
    """Appends records {"step": s, ...} to `metrics.jsonl` and to TensorBoard; a context manager.

    Opened at `resume_step`, it first drops what a killed run had written past that step: those steps are about
    to run again.
    """

    def __init__(self, workdir: Path, resume_step: int) -> None:
        path = workdir / "metrics.jsonl"
        kept = [record for record in read_metrics(path) if record["step"] <= resume_step]
        fresh = path.with_suffix(".jsonl.tmp")
        fresh.write_text("".join(json.dumps(record) + "\n" for record in kept), encoding="utf-8")
        os.replace(fresh, path)
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add one record."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def flush(self) -> None:
        """Put everything on disk; called before a checkpoint, which must never be ahead of its numbers."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.flush()
        self._file.close()
        self._board.close()
