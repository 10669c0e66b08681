"""Child processes that are watched, logged and stopped kindly."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

_POLL_SECONDS = 0.1
_LINES = 3


class Stop:
    """Whether somebody asked to stop, and whether he could not wait."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.at_once = threading.Event()


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Turn the first Ctrl-C or SIGTERM into a request to stop, the second into one to stop at once."""
    stop = Stop()

    def note(_number: int, _frame: object) -> None:
        if stop.asked.is_set():
            stop.at_once.set()
        stop.asked.set()

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_logged(
    command: Sequence[str],
    log: Path,
    stop: Stop,
    *,
    environment: Mapping[str, str],
    lock: int | None = None,
    enough: Callable[[], bool] = lambda: False,
) -> int:
    """Run a command, with all that it prints appended to `log`; returns its exit status, −N if signal N ended it.

    Args:
      command: program and arguments.
      log: a file; the command itself goes there first.
      stop: once asked, the child gets a SIGTERM, on which training saves and ends.
      environment: what the child has beyond this process' own.
      lock: a descriptor for the child to hold on to.
      enough: looked at all the time; once true, the child gets a SIGTERM too.
    """
    with log.open("ab") as out:
        out.write(f"$ {' '.join(command)}\n".encode())
        out.flush()
        # A session of its own: a Ctrl-C in the terminal reaches the children through this process only, once.
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=() if lock is None else (lock,),
            env={**os.environ, **environment},
        )
        try:
            return _wait(child, stop, enough)
        finally:
            if child.poll() is None:
                _signal(child, signal.SIGKILL)
                child.wait()


def _wait(child: subprocess.Popen[bytes], stop: Stop, enough: Callable[[], bool]) -> int:
    told = False
    while child.poll() is None:
        if stop.at_once.is_set():
            _signal(child, signal.SIGKILL)
        elif not told and (stop.asked.is_set() or enough()):
            _signal(child, signal.SIGTERM)
            told = True
        time.sleep(_POLL_SECONDS)
    return child.returncode


def _signal(child: subprocess.Popen[bytes], number: int) -> None:
    """SIGKILL goes to all that the child has started; SIGTERM to itself, for it sees to the others."""
    try:
        if number == signal.SIGKILL:
            os.killpg(child.pid, number)
        else:
            child.send_signal(number)
    except ProcessLookupError:
        pass


def why_it_failed(code: int, log: Path, start: int) -> str:
    """An exit status and the last lines that were logged from byte `start` on, as one line."""
    with log.open("rb") as file:
        file.seek(start)
        text = file.read().decode("utf-8", "replace")
    # A progress bar overwrites its line again and again; only other lines say what went wrong.
    lines = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()]
    lines = [line for line in lines if not line.startswith("$ ") and not re.search(r"\d+%\|", line)]
    errors = [line for line in lines if line.startswith("make-jax: error: ")]
    said = errors[-1:] or lines[-_LINES:]
    told = " / ".join("".join(char for char in line if char.isprintable())[:300] for line in said)
    return f"{_status(code)}: {told}" if told else _status(code)


def _status(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    known = {number.value: number.name for number in signal.Signals}
    name = known.get(-code, f"signal {-code}")
    return f"killed by {name}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
