"""Where a run's numbers go: a JSONL file, TensorBoard, and Weights & Biases where asked for."""

from __future__ import annotations

import json
import os
import time
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from make_jax.run import read_metrics
from make_jax.small_files import write_text
from make_jax.training.wandb_board import WandbBoard


class MetricsLog:
    """Appends records {"step": s, ...} to `metrics.jsonl`, line by line, and to TensorBoard; a context manager.

    Numbers go to `further`, too, which is closed with it. Opened at `resume_step`, it first drops what a killed run had
    written past that step: those steps are about to run again.
    """

    def __init__(self, workdir: Path, resume_step: int, further: WandbBoard | None = None) -> None:
        path = workdir / "metrics.jsonl"
        kept = [record for record in read_metrics(path) if record["step"] <= resume_step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self._further = further
        # tensorboardX' SummaryWriter writes from a thread, which no flush waits for and a full disk kills silently.
        board = workdir / "tensorboard"
        board.mkdir(exist_ok=True)
        self._board = EventsWriter(str(board / "events"), f".{resume_step}")
        self._add_event(resume_step + 1, session_log=SessionLog(status=SessionLog.START))  # drops what lies past it

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add one record."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._add_event(step, summary=scalar(name, value))
        if self._further is not None:
            self._further.write(step, values)

    def _add_event(self, step: int, **content: Any) -> None:
        self._board.write_event(Event(wall_time=time.time(), step=step, **content))

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
        try:
            with closing(self._board), self._file:
                self.flush()
        except OSError:
            if error is None:  # else the first error says it
                raise
        finally:
            if self._further is not None:
                self._further.close(failed=error is not None)


class NoMetrics:
    """What the other processes of a run have in place of a log: the first one's numbers are everybody's."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Leave it to the first process."""

    def flush(self) -> None:
        """Nothing to put on disk."""

    def __enter__(self) -> NoMetrics:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to close."""
