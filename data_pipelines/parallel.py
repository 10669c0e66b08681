"""Work spread over processes or machines. What it makes are files, so it is the same however it was spread."""

from __future__ import annotations

import json
import multiprocessing
import os
import shlex
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from data_pipelines.errors import DataError

RunnerName = Literal["processes", "beam"]

_SMALL_BYTES = 128 * 1024 * 1024  # of products are written sooner than several processes import TensorFlow

_Item = TypeVar("_Item")


class Runner(Protocol):
    """Something that spreads work."""

    def fitting(self, num_bytes: int) -> Runner:
        """The runner to use for work of this size whose workers need TensorFlow."""

    def threads(self, items: int) -> int:
        """How many threads the work on each of so many items should use."""

    def run(
        self, function: Callable[[_Item], None], items: Sequence[_Item], notes: Path, done: Callable[[], object]
    ) -> None:
        """Calls a function on every item, and returns when all are done.

        Args:
          function: a module's function; it writes its results to files.
          items: what pickle takes; few bytes each.
          notes: a folder that does not exist yet, for the runner's own use; every worker sees it.
          done: called for each item in turn once it is done.

        Raises:
          Exception: what the function raised for the first item on which it failed.
        """


def choose_runner(name: RunnerName, workers: int | None, beam_options: str) -> Runner:
    """The runner of that name.

    Args:
      name: "processes" on this machine, or "beam" for Apache Beam.
      workers: of the former; None for as many as are of use.
      beam_options: of the latter, as on a command line: "--runner=FlinkRunner --flink_master=...".

    Raises:
      DataError: an unknown name, options of the other runner, or Apache Beam is not installed.
    """
    if name == "processes":
        if beam_options:
            raise DataError(f"Beam options {beam_options!r} are given without the runner 'beam'; choose that too")
        if workers is not None and workers < 1:
            raise DataError(f"workers={workers} is too few; use 1 or more")
        return Processes(workers)
    if name != "beam":
        raise DataError(f"runner {name!r} is unknown; use 'processes' or 'beam'")
    if workers is not None:
        raise DataError(f"workers={workers} is for processes; Beam has options for that, as --direct_num_workers=4")
    try:
        import apache_beam  # noqa: F401
    except ImportError as error:
        raise DataError(
            f"the runner 'beam' needs Apache Beam ({error}); install it with: pip install 'make_jax[beam]'"
        ) from error
    return Beam(beam_options)


@dataclass(frozen=True)
class Processes:
    """Processes of this machine; one item, or one worker, is done in this process.

    They are started afresh, so a script that gets here needs its `if __name__ == "__main__":`.

    Attributes:
      workers: how many CPU cores to use; None for all, unless the work is too small for that.
    """

    workers: int | None = None

    def fitting(self, num_bytes: int) -> Runner:
        """This process alone for small work, if the number of workers is left open."""
        return Processes(1) if self.workers is None and num_bytes < _SMALL_BYTES else self

    def threads(self, items: int) -> int:
        """The cores that each process has for itself."""
        return max(1, self._cores // max(1, items))

    @property
    def _cores(self) -> int:
        return self.workers or os.cpu_count() or 1

    def run(
        self, function: Callable[[_Item], None], items: Sequence[_Item], notes: Path, done: Callable[[], object]
    ) -> None:
        """See `Runner`. Whatever ends this process ends the workers too, at once.

        Raises:
          DataError: a worker was killed.
        """
        if min(self._cores, len(items)) > 1:
            self._run_in_processes(function, items, done)
            return
        for item in items:
            function(item)
            done()

    def _run_in_processes(
        self, function: Callable[[_Item], None], items: Sequence[_Item], done: Callable[[], object]
    ) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process that has threads can hang
        lifeline, held = context.Pipe(duplex=False)
        pool = ProcessPoolExecutor(min(self._cores, len(items)), context, _begin_worker, (lifeline,))
        try:
            with _interrupts_held_back():
                futures = [pool.submit(function, item) for item in items]
            for future in futures:
                future.result()
                done()
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process was killed, perhaps because memory ran out; use fewer --workers"
            ) from error
        except BaseException:
            held.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            held.close()
            lifeline.close()


def _begin_worker(lifeline: connection.Connection) -> None:
    # Each worker is one of many; a library that starts a thread per core in each of them slows all down.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()


def _end_with_parent(lifeline: connection.Connection) -> None:
    """Waits until the other end of the pipe is closed, by the parent or by its end."""
    connection.wait([lifeline])
    os._exit(1)


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C goes to all processes of a terminal; those that are started in here leave it to their parent."""
    resource_tracker.ensure_running()  # while it starts it lets interrupts through
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclass(frozen=True)
class Beam:
    """Apache Beam; every worker must have this package and see the tables and the output under the same paths.

    Attributes:
      options: Beam's own, as on a command line.
    """

    options: str = ""

    def fitting(self, num_bytes: int) -> Runner:
        """Beam, whatever the size."""
        return self

    def threads(self, items: int) -> int:
        """One: Beam itself decides how much a machine does at a time."""
        return 1

    def run(
        self, function: Callable[[_Item], None], items: Sequence[_Item], notes: Path, done: Callable[[], object]
    ) -> None:
        """See `Runner`.

        Raises:
          DataError: as the function did.
          RuntimeError: the function failed otherwise, with the traceback, or Beam did.
        """
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions

        notes.mkdir(parents=True)
        with beam.Pipeline(options=PipelineOptions(shlex.split(self.options))) as pipeline:
            numbers = pipeline | beam.Create(list(range(len(items)))) | beam.Reshuffle()
            numbers | beam.Map(_call, function, list(items), notes)
        for note in sorted(notes.iterdir()):
            kind, message = json.loads(note.read_text(encoding="utf-8"))
            raise DataError(message) if kind == DataError.__name__ else RuntimeError(message)
        for _ in items:
            done()


def _call(number: int, function: Callable[[_Item], None], items: Sequence[_Item], notes: Path) -> None:
    """Runs on a worker; a failure is noted in a file, since each of Beam's runners hands on errors in its own way."""
    try:
        function(items[number])
    except Exception as error:
        message = str(error) if isinstance(error, DataError) else "".join(traceback.format_exception(error))
        note = json.dumps([type(error).__name__, message])
        (notes / f"{number:08}.json").write_text(note, encoding="utf-8")
