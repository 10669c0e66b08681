"""Run directories: complete, checked, and never mistaken for another model's."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import tiny
from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.overrides import apply_overrides
from make_jax.run import finish_run, open_run, read_metrics, start_run


def experiment(*overrides: str) -> Experiment:
    return apply_overrides(tiny.get_config(), ["model.vocab_size=64", *overrides])


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.fixture
def run(tmp_path: Path, tokenizer: Path) -> Path:
    start_run(tmp_path / "run", experiment(), tokenizer, tmp_path / "data", "f" * 64)
    finish_run(tmp_path / "run", parameters(), {"steps": 30, "dev": {}})
    return tmp_path / "run"


def parameters() -> dict:
    return jax.device_get(build_model(experiment()).init(jax.random.key(0)))


def test_everything_comes_back(run: Path, tmp_path: Path) -> None:
    opened = open_run(run)
    assert opened.experiment == experiment()
    expected, found = jax.tree.leaves(parameters()), jax.tree.leaves(opened.params)
    assert jax.tree.structure(opened.params) == jax.tree.structure(parameters())
    for a, b in zip(expected, found, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_array_equal(a, b)
    assert opened.result["parameters"] == sum(leaf.size for leaf in expected)
    assert opened.origin["data"] == str(tmp_path / "data")
    for name in ("command", "versions", "commit", "hardware", "date"):
        assert name in opened.origin


def test_the_fingerprint_follows_the_model(run: Path, tmp_path: Path, tokenizer: Path) -> None:
    prints = {open_run(run).fingerprint}
    for number, change in enumerate(["model.fusion.kind=mean", "model.fusion.modality_dropout=0.5"]):
        other = tmp_path / f"other{number}"
        start_run(other, experiment(change), tokenizer, tmp_path, "f")
        prints.add(finish_run(other, parameters(), {}))
    changed = parameters()
    changed["log_scale"] = changed["log_scale"] + 1
    prints.add(finish_run(run, changed, {}))
    assert len(prints) == 4


def test_a_run_goes_on_with_other_habits_but_not_as_another_model(run: Path, tmp_path: Path, tokenizer: Path) -> None:
    start_run(run, experiment("training.log_every=1", "mesh.data=4"), tokenizer, tmp_path, "f" * 64)
    with pytest.raises(UserError, match=r"another model \(.*learning_rate 0\.003 there, 1\.0 here"):
        start_run(run, experiment("optimizer.learning_rate=1"), tokenizer, tmp_path, "f" * 64)
    with pytest.raises(UserError, match="other data"):
        start_run(run, experiment(), tokenizer, tmp_path, "0" * 64)


def test_a_foreign_folder_is_left_alone(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no run"):
        start_run(tmp_path / "precious", experiment(), tokenizer, tmp_path, "f")
    assert [p.name for p in (tmp_path / "precious").iterdir()] == ["notes.txt"]


def test_what_is_no_finished_run_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(UserError, match="no run here"):
        open_run(tmp_path)
    start_run(tmp_path / "run", experiment(), tokenizer, tmp_path, "f")
    with pytest.raises(UserError, match="not finished"):
        open_run(tmp_path / "run")


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer/tokenizer.json"])
def test_tampering_is_noticed(run: Path, name: str) -> None:
    content = bytearray((run / name).read_bytes())
    content[-1] ^= 1
    (run / name).write_bytes(bytes(content))
    with pytest.raises(UserError, match="not those that training wrote"):
        open_run(run)


@pytest.mark.parametrize("name", ["experiment.json", "run.json", "result.json"])
def test_damaged_records_are_named(run: Path, name: str) -> None:
    (run / name).write_text("{")
    with pytest.raises(UserError, match=name):
        open_run(run)
    (run / name).write_text("[]")
    with pytest.raises(UserError, match=name):
        open_run(run)


def test_a_metrics_line_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert read_metrics(file) == []
    file.write_text(json.dumps({"step": 1}) + '\n{"step"')
    assert read_metrics(file) == [{"step": 1}]
