"""Run directories: complete, checked, and never mistaken for another model's."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import tiny
from make_jax import __version__
from make_jax.commands.embed import TrainedModel
from make_jax.config import Experiment, FusionConfig
from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.overrides import apply_overrides
from make_jax.run import finish_run, open_run, provenance, read_metrics, start_run


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
    start_run(tmp_path / "run", experiment(), tokenizer, [str(tmp_path / "data")], "f" * 64)
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
    assert opened.origin["data"] == [str(tmp_path / "data")]
    for name in ("command", "versions", "commit", "hardware", "date"):
        assert name in opened.origin


def test_the_fingerprint_follows_the_model(run: Path, tmp_path: Path, tokenizer: Path) -> None:
    prints = {open_run(run).fingerprint}
    for number, change in enumerate(["model.fusion.kind=mean", "model.fusion.modality_dropout=0.5"]):
        other = tmp_path / f"other{number}"
        start_run(other, experiment(change), tokenizer, [str(tmp_path)], "f")
        prints.add(finish_run(other, parameters(), {}))
    changed = parameters()
    changed["scale_logit"] = changed["scale_logit"] + 1
    prints.add(finish_run(run, changed, {}))
    assert len(prints) == 4


def rewrite(file: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content, indent=2))


def test_a_run_of_before_a_setting_is_still_the_same_run(run: Path, tmp_path: Path, tokenizer: Path) -> None:
    def older(tree: dict) -> None:
        for section, key in (("training", "ema_decay"), ("training", "keep_best"), ("data", "query_swap")):
            del tree[section][key]
        del tree["model"]["fusion"]["modality_dropout"], tree["mesh"]["rules"]

    rewrite(run / "experiment.json", older)
    rewrite(run / "run.json", lambda origin: [origin.pop(key) for key in ("format", "make_jax")])
    before = finish_run(run, parameters(), {"steps": 30, "dev": {}})  # as that version finished it
    opened = open_run(run)
    assert opened.fingerprint == before
    assert opened.experiment.training.ema_decay == 0
    assert opened.experiment.model.fusion.modality_dropout == FusionConfig().modality_dropout
    here = experiment(f"model.fusion.modality_dropout={FusionConfig().modality_dropout}")
    start_run(run, here, tokenizer, [str(tmp_path)], "f" * 64)
    with pytest.raises(UserError, match=r"training\.ema_decay 0\.0 there, 0\.9 here"):
        start_run(run, experiment("training.ema_decay=0.9"), tokenizer, [str(tmp_path)], "f" * 64)


def test_a_run_of_a_newer_version_is_refused_with_versions_and_settings(run: Path) -> None:
    def newer(tree: dict) -> None:
        tree["model"]["fusion"]["sparkle"] = 3
        tree["training"]["warp"] = True

    rewrite(run / "experiment.json", newer)
    rewrite(run / "run.json", lambda origin: origin["versions"].update(make_jax="7.1.0"))
    with pytest.raises(UserError) as error:
        open_run(run)
    assert f"make_jax 7.1.0 wrote this with settings that make_jax {__version__} does not have" in str(error.value)
    assert "(model.fusion.sparkle, training.warp); use make_jax 7.1.0" in str(error.value)


def test_a_run_of_another_format_is_refused(run: Path, tmp_path: Path, tokenizer: Path) -> None:
    rewrite(run / "run.json", lambda origin: origin.update(format=2, make_jax="7.1.0"))
    for use in (open_run, lambda path: start_run(path, experiment(), tokenizer, [str(tmp_path)], "f" * 64)):
        with pytest.raises(UserError, match=r"format 2 of make_jax 7\.1\.0; here is make_jax .* which reads format 1"):
            use(run)


def test_parameters_that_this_version_would_leave_out_are_refused(run: Path) -> None:
    """As when another version made more of the same settings: its model would only seem to work."""
    more = parameters() | {"cross_modal_extra": {"kernel": np.ones((2, 2), np.float32)}}
    finish_run(run, more, {"steps": 30, "dev": {}})
    with pytest.raises(UserError, match=r"with other parameters .*\(cross_modal_extra/kernel not wanted\); use that"):
        TrainedModel.open(run)


def test_a_run_goes_on_with_other_habits_but_not_as_another_model(run: Path, tmp_path: Path, tokenizer: Path) -> None:
    start_run(
        run,
        experiment("training.log_every=1", "mesh.data=4", "training.non_finite=skip"),
        tokenizer,
        [str(tmp_path)],
        "f" * 64,
    )
    with pytest.raises(UserError, match=r"another model \(.*learning_rate 0\.003 there, 1\.0 here"):
        start_run(run, experiment("optimizer.learning_rate=1"), tokenizer, [str(tmp_path)], "f" * 64)
    with pytest.raises(UserError, match="other data"):
        start_run(run, experiment(), tokenizer, [str(tmp_path)], "0" * 64)


def test_a_foreign_folder_is_left_alone(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="holds no run"):
        start_run(tmp_path / "precious", experiment(), tokenizer, [str(tmp_path)], "f")
    assert [p.name for p in (tmp_path / "precious").iterdir()] == ["notes.txt"]


def test_a_file_is_no_place_for_a_run(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="this is a file"):
        start_run(tmp_path / "file", experiment(), tokenizer, [str(tmp_path)], "f")


def test_a_run_that_could_not_be_started_leaves_nothing_and_can_be_started_again(
    tmp_path: Path, tokenizer: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(experiment: Experiment) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("make_jax.run.to_json", full)
        with pytest.raises(OSError, match="No space"):
            start_run(tmp_path / "run", experiment(), tokenizer, [str(tmp_path)], "f")
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer"]
    start_run(tmp_path / "run", experiment(), tokenizer, [str(tmp_path)], "f")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["experiment.json", "run.json", "tokenizer"]


def test_the_command_and_the_commit_are_those_of_this_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/pytest", "a b", "c"])
    assert provenance()["command"] == "pytest 'a b' c"
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    user = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(tmp_path), *user, "commit", "-q", "--allow-empty", "-m", "a"], check=True)
    monkeypatch.setattr("make_jax.run.__file__", str(tmp_path / "make_jax" / "run.py"))
    assert re.fullmatch("[0-9a-f]{12}", provenance()["commit"])
    monkeypatch.setattr("make_jax.run.__file__", str(tmp_path / ".venv" / "make_jax" / "run.py"))
    (tmp_path / ".venv").mkdir()
    assert provenance()["commit"] is None


def test_what_is_no_finished_run_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    with pytest.raises(UserError, match="no run here"):
        open_run(tmp_path)
    start_run(tmp_path / "run", experiment(), tokenizer, [str(tmp_path)], "f")
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
    for content in ("[]", "{}"):
        (run / name).write_text(content)
        with pytest.raises(UserError, match=name):
            open_run(run)


def test_a_missing_model_is_named(run: Path) -> None:
    (run / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors: this file is missing"):
        open_run(run)


def test_a_metrics_line_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert read_metrics(file) == []
    file.write_text(json.dumps({"step": 1}) + '\n{"step"')
    assert read_metrics(file) == [{"step": 1}]
