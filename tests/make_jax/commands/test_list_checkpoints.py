"""`make-jax checkpoints`: what it lists, what it finds damaged, and what it removes or refuses to."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
from click.testing import CliRunner, Result

from experiments import tiny
from make_jax import __version__
from make_jax.cli import main
from make_jax.overrides import apply_overrides
from make_jax.run import start_run
from make_jax.training.checkpoint_files import saved_steps
from make_jax.training.checkpoints import Checkpoints
from make_jax.training.policy import new_watch
from make_jax.training.step import TrainState

SETTINGS = ("model.vocab_size=64", "training.keep_checkpoints=1", "training.keep_best=1", "training.eval_every=10")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints of the steps 10 to 40, of which 10 and 20 were evaluated."""
    (tmp_path / "tokenizer").mkdir()
    path = tmp_path / "run"
    start_run(path, apply_overrides(tiny.get_config(), SETTINGS), tmp_path / "tokenizer", ["data"], "f")
    records = [{"step": 10, "dev/r_precision": 0.25}, {"step": 20, "dev/r_precision": 0.5}]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    with closing(Checkpoints(path / "checkpoints", set)) as checkpoints:
        for step in (10, 20, 30, 40):
            checkpoints.save(step, TrainState(jnp.int32(step), {"kernel": jnp.ones((4, 4))}, (), (), new_watch()))
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["checkpoints", *map(str, arguments)], catch_exceptions=False)


def listed(*arguments: object) -> dict[str, Any]:
    result = call(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def there(run: Path) -> list[int]:
    return saved_steps(run / "checkpoints")


def test_the_list_says_why_each_stays(run: Path) -> None:
    lines = call(run).stdout.splitlines()
    assert lines[0].split() == ["step", "saved", "size", "r_precision", "stays", "as"]
    assert [line.split()[0] for line in lines[1:]] == ["10", "20", "30", "40"]
    assert lines[1].endswith("0.2500  -")
    assert lines[2].endswith("0.5000  best 1 by r_precision")
    assert lines[4].endswith("last 1")
    found = listed(run)
    assert [one["metric"] for one in found["checkpoints"]] == [0.25, 0.5, None, None]
    assert [one["stays_as"] for one in found["checkpoints"]] == ["", "best 1 by r_precision", "", "last 1"]
    assert all(one["bytes"] > 0 and one["make_jax"] == __version__ for one in found["checkpoints"])
    assert found["pruned"] == []


def test_pruning_by_the_policy_of_the_run_or_another(run: Path) -> None:
    assert listed(run, "--prune", "policy", "--dry-run")["pruned"] == [10, 30]
    assert there(run) == [10, 20, 30, 40]
    result = call(run, "--prune", "policy", "--set", "training.keep_checkpoints=2")
    assert result.stdout.splitlines()[-1].startswith("removed 10: 0.")
    assert there(run) == [20, 30, 40]


def test_pruning_by_step_leaves_something_to_go_on_from(run: Path) -> None:
    assert listed(run, "--prune", "10, 40")["pruned"] == [10, 40]
    assert there(run) == [20, 30]
    for steps, told in (("20,30", "nothing for the run"), ("20,50,last", "'50', 'last' is no step")):
        result = call(run, "--prune", steps)
        assert result.exit_code == 2
        assert told in result.stderr
        assert there(run) == [20, 30]
    (run / "result.json").write_text("{}")
    assert listed(run, "--prune", "20,30")["pruned"] == [20, 30]
    assert call(run).stdout == f"{run / 'checkpoints'}: no checkpoints\n"


def test_damaged_ones_are_named_and_do_not_count(run: Path) -> None:
    assert all(one["sound"] and one["checksums"] for one in listed(run, "--verify")["checkpoints"])
    (run / "checkpoints" / "40" / "default" / "_METADATA").write_text("{}")
    (run / "checkpoints" / "10" / "make_jax.json").unlink()
    result = call(run, "--verify", "--prune", "policy")
    assert result.exit_code == 2
    assert "damaged checkpoints (step 40: default/_METADATA is not what was written)" in result.stderr
    assert "--prune 40" in result.stderr
    assert "sound, without checksums" in result.stdout
    assert there(run) == [20, 30, 40]
    assert call(run, "--verify", "--prune", "40").exit_code == 0
    assert there(run) == [20, 30]


def test_no_run_is_one_line(tmp_path: Path) -> None:
    result = call(tmp_path)
    assert result.exit_code == 2
    assert "there is no run here" in result.stderr
