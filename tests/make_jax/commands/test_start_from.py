"""Starting from another run: what fits is taken over, the rest is told, and what cannot be meant is refused."""

from __future__ import annotations

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import traverse_util
from random_batches import Batches

from experiments import tiny
from make_jax.commands.start_from import initial_parameters
from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.overrides import apply_overrides
from make_jax.run import finish_run, start_run
from make_jax.training.loop import train


def experiment(*overrides: str) -> Experiment:
    return apply_overrides(tiny.get_config(), ["model.vocab_size=64", "training.steps=2", *overrides])


def fresh(config: Experiment) -> dict:
    shapes = jax.eval_shape(build_model(config).init, jax.random.key(0))
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 8, shapes)


def flat(params: object) -> dict[str, np.ndarray]:
    return traverse_util.flatten_dict(params, sep="/")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "tokenizer.json").write_text('{"model": {"vocab": {"a": 1}}}')
    return folder


@pytest.fixture
def run(tmp_path: Path, tokenizer: Path) -> Path:
    start_run(tmp_path / "run", experiment(), tokenizer, ["data"], "f" * 64)
    finish_run(tmp_path / "run", fresh(experiment()), {"steps": 30, "dev": {}})
    return tmp_path / "run"


def test_what_fits_is_taken_over_and_the_rest_is_told(
    run: Path, tokenizer: Path, caplog: pytest.LogCaptureFixture
) -> None:
    changes = ("model.fusion.kind=concat", "model.title.max_tokens=20", f"training.init_from={run}")
    with caplog.at_level("INFO", "make_jax"):
        taken = initial_parameters(experiment(*changes), tokenizer)
    assert taken is not None
    given = flat(fresh(experiment()))
    for name, value in taken.params.items():
        np.testing.assert_array_equal(value, given[name])
    assert taken.origin["fresh"] == ["title/positions"]
    left = taken.origin["left_over"]
    assert "adaptation/gate/kernel" in left
    assert "title/positions" in left
    assert taken.origin["loaded"] == len(taken.params) == len(given) - len(left)
    assert taken.origin["run"] == str(run)
    assert "fresh, not there in this shape: title/positions" in caplog.text
    assert "left over, not wanted here: adaptation/gate" in caplog.text
    assert initial_parameters(experiment(), tokenizer) is None


def test_tables_of_ids_are_fresh(run: Path, tokenizer: Path) -> None:
    config = experiment("model.side.columns=category,product_id", "model.side.buckets=16", f"training.init_from={run}")
    taken = initial_parameters(config, tokenizer)
    assert taken is not None
    assert taken.origin["fresh"] == ["side/category/embedding", "side/product_id/embedding"]
    assert taken.origin["left_over"] == []


def test_what_cannot_be_meant_is_refused(run: Path, tokenizer: Path, tmp_path: Path) -> None:
    def refused(source: Path | str, *overrides: str, text: Path = tokenizer) -> str:
        with pytest.raises(UserError) as error:
            initial_parameters(experiment(f"training.init_from={source}", *overrides), text)
        return str(error.value)

    assert "there is no run here" in refused(tmp_path / "nowhere")
    assert "there is no run here" in refused(f"{tmp_path / 'nowhere'}@7")
    assert "there is no checkpoint of step 7, but none" in refused(f"{run}@7")
    sizes = [f"model.{tower}.transformer.width=36" for tower in ("query", "title", "image")]
    assert "none of the matrices among its" in refused(
        run, *sizes, "model.embedding=20", "model.fusion.kind=mean", "model.image.patch=32"
    )
    other = tmp_path / "other"
    other.mkdir()
    (other / "tokenizer.json").write_text('{"model": {"vocab": {"b": 1}}}')
    assert "its tokenizer is not that of the data" in refused(run, text=other)
    (run / "result.json").unlink()
    assert "this run is not finished" in refused(run)


def test_a_run_starts_there_once_and_may_come_from_a_checkpoint(run: Path, tokenizer: Path, tmp_path: Path) -> None:
    # So slow that nothing moves: the run ends where it began.
    still = ("optimizer.learning_rate=1e-12", "optimizer.frozen=^query/", "optimizer.layer_decay=0.9")
    config = experiment(f"training.init_from={run}", *still)
    asked = []

    def initial() -> dict[str, np.ndarray]:
        taken = initial_parameters(config, tokenizer)
        assert taken is not None
        asked.append(taken.origin)
        return taken.params

    first = train(config, tmp_path / "first", Batches, lambda params: {}, initial)
    given = flat(fresh(experiment()))
    for name, leaf in flat(first.params).items():
        np.testing.assert_allclose(leaf, given[name], atol=1e-6)
    assert train(config, tmp_path / "first", Batches, lambda params: {}, initial).finished
    assert len(asked) == 1

    (tmp_path / "first" / "experiment.json").write_text("{}")  # as far as this test goes, a run of its own
    (tmp_path / "first" / "tokenizer").mkdir()
    (tmp_path / "first" / "tokenizer" / "tokenizer.json").write_text((tokenizer / "tokenizer.json").read_text())
    from_step = experiment(f"training.init_from={tmp_path / 'first'}@2", "mesh.data=2", "mesh.fsdp=4")
    taken = initial_parameters(from_step, tokenizer)
    assert taken is not None
    assert taken.origin["step"] == 2
    for name, leaf in flat(first.params).items():
        np.testing.assert_array_equal(taken.params[name], leaf)
    with pytest.raises(UserError, match=r"no checkpoint of step 1, but those of 2;"):
        initial_parameters(experiment(f"training.init_from={tmp_path / 'first'}@1"), tokenizer)


def test_where_a_run_comes_from_is_recorded(tokenizer: Path, tmp_path: Path) -> None:
    start_run(tmp_path / "run", experiment(), tokenizer, ["data"], "f", {"run": "/elsewhere", "loaded": 3})
    assert json.loads((tmp_path / "run" / "run.json").read_text())["init_from"] == {"run": "/elsewhere", "loaded": 3}
    start_run(tmp_path / "plain", experiment(), tokenizer, ["data"], "f")
    assert "init_from" not in json.loads((tmp_path / "plain" / "run.json").read_text())
