"""What Weights & Biases is told: noted by a stand-in, and taken by wandb itself, offline, where it is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from make_jax.errors import UserError
from make_jax.run import read_metrics
from make_jax.training.metrics_log import MetricsLog
from make_jax.training.wandb_board import WandbBoard, check_wandb


class FakeWandb(ModuleType):
    """The part of wandb that is used; a call becomes a note."""

    def __init__(self, refuses: bool = False) -> None:
        super().__init__("wandb")
        self.errors = SimpleNamespace(Error=type("Error", (Exception,), {}))
        self.Settings, self.notes, self.refuses = dict, [], refuses

    def init(self, **settings: Any) -> Any:
        if self.refuses:
            raise self.errors.Error("No API key configured.\nUse `wandb login` to log in.")
        self.notes.append(("init", settings))

        def noted(name: str) -> Any:
            return lambda *given, **named: self.notes.append((name, *given, named))

        calls = {name: noted(name) for name in ("log", "define_metric", "finish")}
        return SimpleNamespace(url="https://wandb.invalid/run", **calls)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    module = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_numbers_go_there_too_and_a_run_goes_on_as_the_same(fake: FakeWandb, tmp_path: Path) -> None:
    for resumed in (0, 1):
        with MetricsLog(tmp_path, resumed, WandbBoard(tmp_path, "shop", {"name": "tiny"})) as log:
            log.write(resumed + 1, {"loss": 2.0})
    first, second = (note[1] for note in fake.notes if note[0] == "init")
    assert first["id"] == second["id"] == json.loads((tmp_path / "wandb.json").read_text())["id"]
    assert (first["project"], first["name"], first["resume"]) == ("shop", tmp_path.name, "allow")
    assert first["config"] == {"name": "tiny"}
    assert [note[1] for note in fake.notes if note[0] == "log"] == [{"step": s, "loss": 2.0} for s in (1, 2)]
    assert ("define_metric", "*", {"step_metric": "step"}) in fake.notes
    assert [note[1] for note in fake.notes if note[0] == "finish"] == [{"exit_code": 0}] * 2
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]


def test_an_error_is_a_failed_run(fake: FakeWandb, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), MetricsLog(tmp_path, 0, WandbBoard(tmp_path, "shop", {})):
        raise ValueError("no")
    assert fake.notes[-1] == ("finish", {"exit_code": 1})


def test_what_is_refused_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "wandb", FakeWandb(refuses=True))
    with pytest.raises(UserError, match=r"'shop'.*\(No API key configured\.\); run wandb login") as error:
        WandbBoard(tmp_path, "shop", {})
    assert "\n" not in str(error.value)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_wandb("")
    with pytest.raises(UserError, match=r"pip install 'make_jax\[wandb\]'"):
        check_wandb("shop")


def test_wandb_itself_takes_them_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    for resumed in (0, 1):
        with MetricsLog(tmp_path, resumed, WandbBoard(tmp_path, "shop", {"name": "tiny"})) as log:
            log.write(resumed + 1, {"loss": 1234.5, "dev/ndcg@10": 0.25})
    files = list((tmp_path / "wandb").rglob("*.wandb"))
    assert len(files) == 2
    assert all(b"dev/ndcg@10" in file.read_bytes() for file in files)
