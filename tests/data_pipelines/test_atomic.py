"""A directory is whole or absent, whatever happens to the processes that write it."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data_pipelines.atomic import atomic_directory
from data_pipelines.errors import DataError

REPOSITORY = Path(__file__).parents[2]
OTHER_PROCESS = """
import os, signal, sys
from pathlib import Path
from data_pipelines.atomic import atomic_directory

moment, renames, rename = sys.argv[2], 0, Path.rename
def stop():
    if moment == "waits":
        print("ready", flush=True)
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
def renamed(self, target):
    global renames
    if moment == f"rename {renames}":
        stop()
    renames += 1
    return rename(self, target)
Path.rename = renamed
with atomic_directory(Path(sys.argv[1]), lambda _: None) as directory:
    (directory / "content").write_text("other")
    if not moment.startswith("rename"):
        stop()
"""


def refuse(directory: Path) -> str | None:
    return None if (directory / "content").exists() else "holds no content"


def write(out: Path, content: str) -> None:
    with atomic_directory(out, refuse) as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "file").write_text(content)
        (directory / "content").write_text(content)


def read(out: Path) -> str:
    assert {path.name for path in out.iterdir()} in ({"content", "sub"}, {"content"})
    return (out / "content").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def other_process(out: Path, moment: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", OTHER_PROCESS, str(out), moment]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        yield process


def write_and_be_killed(out: Path, moment: str) -> None:
    with other_process(out, moment) as process:
        assert process.wait() == -signal.SIGKILL


def test_appears_at_the_end_only(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with atomic_directory(out, refuse) as directory:
        assert not list(directory.iterdir())
        assert directory.parent == out.parent
        assert not out.exists()
    assert names(out.parent) == ["out"]
    assert out.stat().st_mode == out.parent.stat().st_mode


def test_replaces_an_acceptable_one_and_takes_an_empty_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write(out, "first")
    write(out, "second")
    assert read(out) == "second"
    assert names(tmp_path) == ["out"]


def test_replaces_what_a_link_points_to(tmp_path: Path) -> None:
    write(tmp_path / "real", "first")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "out").symlink_to("../real")
    write(tmp_path / "links" / "out", "second")
    assert read(tmp_path / "real") == "second"
    assert (tmp_path / "links" / "out").is_symlink()
    assert (names(tmp_path), names(tmp_path / "links")) == (["links", "real"], ["out"])


def test_refuses_foreign_directories(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("data")
    with pytest.raises(DataError, match="out holds no content; name another directory or empty this one"):
        write(tmp_path / "out", "new")
    assert (tmp_path / "out" / "precious").read_text() == "data"
    assert names(tmp_path) == ["out"]


def test_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("data")
    with pytest.raises(DataError, match="out is a file, not a directory; name another directory or move the file"):
        write(tmp_path / "out", "new")
    assert (tmp_path / "out").read_text() == "data"


@pytest.mark.parametrize("foreign", [Path("out"), Path("out") / "precious"])
def test_refuses_what_came_meanwhile(tmp_path: Path, foreign: Path) -> None:
    def write_while_others_do() -> None:
        with atomic_directory(tmp_path / "out", refuse) as directory:
            (directory / "content").write_text("new")
            (tmp_path / foreign).parent.mkdir(exist_ok=True)
            (tmp_path / foreign).write_text("data")

    with pytest.raises(DataError, match=r"is a file|holds no content"):
        write_while_others_do()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / foreign).read_text() == "data"


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("before", [None, "first"])
def test_failure_leaves_everything_as_it_was(tmp_path: Path, error: BaseException, before: str | None) -> None:
    out = tmp_path / "out"
    if before:
        write(out, before)

    def fail() -> None:
        with atomic_directory(out, refuse) as directory:
            (directory / "half").write_text("written")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == (["out"] if before else [])
    assert not before or read(out) == before


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize(("failing", "expected"), [(0, "first"), (1, "first"), (2, "second")])
def test_failed_swap_leaves_the_old_or_the_new(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, failing: int, expected: str
) -> None:
    out = tmp_path / "out"
    write(out, "first")
    rename, renames = Path.rename, iter(range(9))

    def fail_once(self: Path, target: Path) -> Path:
        if next(renames) == failing:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_once)
    with pytest.raises(type(error)):
        write(out, "second")
    assert read(out) == expected
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("moment", "expected"), [("filling", "old"), ("rename 0", "old"), ("rename 1", "old"), ("rename 2", "other")]
)
def test_a_kill_leaves_the_old_or_the_new_and_the_next_run_tidies_up(
    tmp_path: Path, moment: str, expected: str
) -> None:
    out = tmp_path / "out"
    write(out, "old")
    write_and_be_killed(out, moment)
    assert out.exists() == (moment != "rename 1")
    assert len(names(tmp_path)) == 2
    with pytest.raises(RuntimeError), atomic_directory(out, refuse):
        raise RuntimeError
    assert read(out) == expected
    assert names(tmp_path) == ["out"]


def test_a_half_removed_directory_is_never_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write(out, "old")
    write_and_be_killed(out, "rename 2")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", lambda *_, **__: None)  # as if killed while removing
        with pytest.raises(RuntimeError), atomic_directory(out, refuse):
            raise RuntimeError
    assert len(names(tmp_path)) > 1
    out.rename(tmp_path / "moved")
    with pytest.raises(RuntimeError), atomic_directory(out, refuse):
        raise RuntimeError
    assert names(tmp_path) == ["moved"]


def test_living_processes_are_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with other_process(out, "waits") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        (theirs,) = names(tmp_path)
        with atomic_directory(out, refuse) as directory:  # a call in this process lives, too
            (directory / "content").write_text("outer")
            write(out, "inner")
            assert names(tmp_path) == sorted([theirs, directory.name, "out"])
        assert read(out) == "outer"
        assert names(tmp_path) == sorted([theirs, "out"])
        process.kill()
    write(out, "new")
    assert names(tmp_path) == ["out"]


def test_an_earlier_process_with_this_id_is_dead(tmp_path: Path) -> None:
    """A container that is started again often has the host name and process id of the time before."""
    with atomic_directory(tmp_path / "out", refuse) as directory:
        left = directory.with_name(directory.name[:-32] + "0" * 32)
        left.mkdir()
    write(tmp_path / "out", "new")
    assert names(tmp_path) == ["out"]


def test_processes_of_other_hosts_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write(out, "old")
    write_and_be_killed(out, "rename 1")
    theirs = names(tmp_path)
    for host in ("elsewhere", f"{socket.gethostname()}.elsewhere", f"elsewhere.{socket.gethostname()}"):
        with monkeypatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda host=host: host)
            write(out, "new")
        assert names(tmp_path) == sorted([*theirs, "out"])
    write(out, "newer")
    assert names(tmp_path) == ["out"]


def test_siblings_of_other_directories_are_left_alone(tmp_path: Path) -> None:
    write_and_be_killed(tmp_path / "out.partial", "filling")
    write_and_be_killed(tmp_path / "other", "filling")
    (tmp_path / f".out.partial.{socket.gethostname()}.{os.getpid()}.mine").mkdir()  # not a name that we give
    theirs = names(tmp_path)
    write(tmp_path / "out", "new")
    assert names(tmp_path) == sorted([*theirs, "out"])
