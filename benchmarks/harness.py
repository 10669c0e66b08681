"""What all benchmarks share: a race between contestants, a table of ratios, and the JSON file that records them.

Machines are noisy and differ, so a figure alone says little. Contestants are measured in turns on the same cores, a
few seconds each, and compared within each round; the median of these ratios is what counts.
"""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np

# More than any contestant has ready when its turn begins, made while the others had theirs.
_NOT_COUNTED = 6
_PATIENCE = 10.0  # seconds for a contestant to clear up after itself
# A fresh interpreter for each, so that none shares threads, memory or imports with another.
_SPAWN = multiprocessing.get_context("spawn")

Starter = Callable[[], Iterator[Any]]
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes:
      name: what was measured.
      value: our figure.
      unit: of the value.
      against: what it is compared with.
      ratio: our figure divided by the other one.
      target: what the ratio is to be.
      more_is_better: the ratio is to be at least the target; otherwise at most.
    """

    name: str
    value: float
    unit: str
    against: str
    ratio: float
    target: float
    more_is_better: bool = True

    @property
    def reached(self) -> bool:
        """Whether the target is met."""
        return self.ratio >= self.target if self.more_is_better else self.ratio <= self.target

    def cells(self) -> list[str]:
        """The row of the table."""
        bound = ">=" if self.more_is_better else "<="
        return [
            self.name,
            f"{self.value:,.4g} {self.unit}" if abs(self.value) < 1000 else f"{self.value:,.0f} {self.unit}",
            self.against,
            f"{self.ratio:.2f}",
            f"{bound} {self.target:g}",
            "yes" if self.reached else "no",
        ]


def report(rows: Sequence[Row], json_file: Path | None) -> None:
    """Prints the rows as a table; with `json_file`, also writes them there with command, commit and hardware."""
    cells = [["what", "ours", "against", "ratio", "target", "reached"], *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, ["-" * width for width in widths])
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    if json_file is not None:
        _write_json(rows, json_file)


def _write_json(rows: Sequence[Row], json_file: Path) -> None:
    from make_jax.run import provenance  # brings JAX, which the contestants do without

    origin = provenance()
    origin["command"] = f"python benchmarks/{origin['command']}"
    shared = {name: origin[name] for name in ("command", "commit", "hardware")}
    measured = ("name", "value", "unit", "against", "ratio")
    records = [{name: getattr(row, name) for name in measured} | shared for row in rows]
    json_file.write_text(json.dumps(records, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def race(
    contestants: Mapping[str, Starter], rounds: int, seconds: float, ready: int = _NOT_COUNTED
) -> dict[str, np.ndarray]:
    """Lets each contestant make batches, each in a process of its own, one at a time, in turns.

    Args:
      contestants: by name, functions that give endless iterators of batches; they are pickled.
      rounds: how many turns of each are counted; one more comes before them, to warm up.
      seconds: how long a turn is.
      ready: how many batches at the start of a turn are not counted.

    Returns:
      Of each contestant float64[rounds], batches per second.

    Raises:
      RuntimeError: a contestant stopped.
    """
    names = list(contestants)
    running = {name: _Contestant(name, contestants[name], ready) for name in names}
    speeds: dict[str, list[float]] = {name: [] for name in names}
    try:
        for number in range(rounds + 1):
            for name in names if number % 2 else reversed(names):
                speeds[name].append(running[name].turn(seconds))
    finally:
        for contestant in running.values():
            contestant.end()
    return {name: np.array(values[1:]) for name, values in speeds.items()}


def in_new_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function in a fresh process and waits for what it returns."""
    with ProcessPoolExecutor(1, _SPAWN) as pool:
        return pool.submit(function, *args, **kwargs).result()


class _Contestant:
    """A process that makes batches when it is its turn."""

    def __init__(self, name: str, start: Starter, ready: int) -> None:
        self._name = name
        self._pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(target=_take_turns, args=(theirs, start, ready))
        self._process.start()
        theirs.close()  # so that the pipe ends when the process does

    def turn(self, seconds: float) -> float:
        try:
            self._pipe.send(seconds)
            return self._pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError(f"{self._name} stopped; what it said is above") from None

    def end(self) -> None:
        self._pipe.close()
        self._process.join(_PATIENCE)
        self._process.kill()


def _take_turns(pipe: Connection, start: Starter, ready: int) -> None:
    batches = start()
    try:
        while True:
            pipe.send(_turn(batches, pipe.recv(), ready))
    except EOFError:  # no more turns
        getattr(batches, "close", lambda: None)()


def _turn(batches: Iterator[Any], seconds: float, ready: int) -> float:
    """Batches per second."""
    for _ in range(ready):
        next(batches)
    count, started, passed = 0, time.monotonic(), 0.0
    while count == 0 or passed < seconds:
        next(batches)
        count, passed = count + 1, time.monotonic() - started
    return count / passed
