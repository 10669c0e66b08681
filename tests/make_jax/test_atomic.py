from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from make_jax.atomic import atomic_directory
from make_jax.errors import UserError

KIND = "make_jax-test"


def write(out: Path, content: str) -> None:
    with atomic_directory(out, kind=KIND) as directory:
        (directory / "sub").mkdir()
        (directory / "sub" / "content").write_text(content)
        (directory / "manifest.json").write_text(json.dumps({"kind": KIND}))


def read(out: Path) -> str:
    return (out / "sub" / "content").read_text()


@pytest.fixture
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_appears_at_the_end_only(tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    with atomic_directory(out, kind=KIND) as directory:
        (directory / "manifest.json").write_text(json.dumps({"kind": KIND}))
        assert not out.exists()
        assert directory.parent == out.parent
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_replaces_one_of_its_kind_and_takes_an_empty_one(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write(out, "first")
    write(out, "second")
    assert read(out) == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_replaces_what_a_link_points_to(tmp_path: Path) -> None:
    write(tmp_path / "real", "first")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write(tmp_path / "link", "second")
    assert read(tmp_path / "real") == "second"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_failure_leaves_everything_as_it_was(tmp_path: Path, error: BaseException) -> None:
    out = tmp_path / "out"
    write(out, "first")

    def fail() -> None:
        with atomic_directory(out, kind=KIND) as directory:
            (directory / "half").write_text("written")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert read(out) == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_failed_swap_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    write(out, "first")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if ".building." in self.name:
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="No space"):
        write(out, "second")
    assert read(out) == "first"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("content", [None, "not json", '{"kind": "make_jax-other"}', "[]"])
def test_refuses_foreign_directories(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "precious").write_text("data")
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(UserError, match=f"is not empty and holds .* where {KIND} would go"):
        write(tmp_path, "new")
    assert (tmp_path / "precious").read_text() == "data"


def test_refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("data")
    with pytest.raises(UserError, match="is a file"):
        write(tmp_path / "out", "new")


def test_refuses_to_finish_without_a_marker(tmp_path: Path) -> None:
    with (
        pytest.raises(ValueError, match="was not written"),
        atomic_directory(tmp_path / "out", kind=KIND) as directory,
    ):
        (directory / "content").write_text("data")
    assert not list(tmp_path.iterdir())


def test_clears_up_after_the_dead_but_not_the_living(tmp_path: Path, dead_pid: int) -> None:
    host = socket.gethostname()
    dead = tmp_path / f".out.building.{host}.{dead_pid}.0123abcd"
    living = tmp_path / f".out.building.{host}.{os.getpid()}.0123abcd"
    elsewhere = tmp_path / f".out.building.another.host.{dead_pid}.0123abcd"
    for left in (dead, living, elsewhere):
        left.mkdir()
    write(tmp_path / "out", "new")
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "out", living, elsewhere])


def test_recovers_what_a_killed_process_was_replacing(tmp_path: Path, dead_pid: int) -> None:
    out = tmp_path / "out"
    write(out, "old")
    out.rename(tmp_path / f".out.replaced.{socket.gethostname()}.{dead_pid}.0123abcd")
    with pytest.raises(RuntimeError), atomic_directory(out, kind=KIND):
        raise RuntimeError
    assert read(out) == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
