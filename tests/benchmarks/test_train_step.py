"""The benchmark of the training step runs and says what it should, at toy size and without torch."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from click.testing import CliRunner

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[str, list[dict[str, Any]]]]:
    """Runs the benchmark in this process, with contestants that only read their batches; ours is twice as fast."""
    import train_contestants
    import train_step

    def race(starts: Mapping[str, Any], rounds: int, *_: object) -> dict[str, np.ndarray]:
        for start in starts.values():
            assert next(start())["query_ids"].shape == (8, 8)
        return {name: np.full(rounds, 4.0 if name == "ours" else 2.0) for name in starts}

    def ours(task: Any) -> Iterator[Any]:
        return iter(task.read("ours"))

    def torch_steps(task: Any, compiled: bool = False) -> Iterator[Any]:
        return iter(task.read("torch"))

    def run(*arguments: str) -> tuple[str, list[dict[str, Any]]]:
        file = tmp_path / "rows.json"
        done = CliRunner().invoke(train_step.main, [*arguments, "--json", str(file)], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output, json.loads(file.read_text())

    monkeypatch.setattr(train_step, "race", race)
    monkeypatch.setattr(train_step, "in_new_process", lambda function, *args: function(*args))
    monkeypatch.setattr(train_step, "find_spec", lambda name: True)
    monkeypatch.setattr(train_contestants, "ours", ours)
    monkeypatch.setattr(train_contestants, "torch_steps", torch_steps)
    monkeypatch.setattr(train_contestants, "step_gigabytes", lambda task: float(task.experiment.training.microbatches))
    monkeypatch.setattr(train_contestants, "settle", lambda *_: None)  # this process has others' tests to run
    return run


def test_ours_races_torch_and_a_gpu_is_waited_for(invoke: Any) -> None:
    printed, rows = invoke("--device", "cpu", "--size", "toy", "--rounds", "3")
    assert [row["against"] for row in rows] == ["torch", "torch.compile"]
    for row in rows:
        assert row.keys() == {"name", "value", "unit", "against", "ratio", "command", "commit", "hardware"}
        assert (row["name"], row["value"], row["unit"]) == ("step, toy, full length", 32.0, "examples/s")
        assert row["ratio"] == 2.0
    for waiting in ("step, base, against torch.compile", "MFU, base", "memory, batch 32,768, base"):
        assert f"{waiting}: waits for an NVIDIA GPU" in printed
    assert "catalogue: waits for data" in printed


def test_rows_of_a_gpu(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import train_contestants

    monkeypatch.setattr(train_contestants, "find_device", lambda: ("gpu", "NVIDIA H100 80GB HBM3"))
    monkeypatch.setattr(train_contestants, "step_flops", lambda experiment: 989.5e12 / 8)
    _, (step, utilisation, memory) = invoke("--size", "toy", "--set", "objectives.scale=30")
    assert (step["name"], step["against"]) == ("step, toy, NVIDIA H100 80GB HBM3", "torch.compile")
    assert (utilisation["value"], utilisation["unit"]) == (50.0, "%")
    assert utilisation["ratio"] == pytest.approx(50 / 45)
    assert (memory["value"], memory["unit"], memory["against"]) == (4.0, "GB", "60 GB")


def test_ours_trains_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    import train_contestants
    from train_sizes import experiment_of
    from train_step import _HUGE

    from make_jax.overrides import apply_overrides

    task = train_contestants.Task(apply_overrides(experiment_of("toy"), _HUGE["toy"].settings()), "cpu", 2)
    first, second = itertools.islice(train_contestants.ours(task), 2)
    assert np.isfinite([first["loss"], second["loss"]]).all()
    assert first["loss"] != second["loss"]
    monkeypatch.setattr(train_contestants, "ours", lambda task: iter("ab"))
    monkeypatch.setattr(train_contestants, "settle", lambda *_: None)
    assert math.isnan(train_contestants.step_gigabytes(task))  # a CPU does not say


def test_flops_are_those_of_three_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    import train_contestants
    from train_sizes import experiment_of

    monkeypatch.setattr(train_contestants, "settle", lambda *_: None)
    # 12 D² parameters a layer; 8 rows of 8 and 12 tokens and 4 patches.
    layers = 6 * (12 * 32**2) * 8 * (8 + 12 + 4)
    assert layers < train_contestants.step_flops(experiment_of("toy")) < 2 * layers


def test_a_gpu_that_is_not_there_cannot_be_asked_for() -> None:
    import train_step

    done = CliRunner().invoke(train_step.main, ["--device", "gpu"])
    assert done.exit_code == 1
    assert "JAX finds no GPU here" in done.output


def test_settings_that_cannot_be_are_refused(invoke: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import train_step

    done = CliRunner().invoke(train_step.main, ["--size", "toy", "--set", "objectives.scal=30"])
    assert done.exit_code == 2
    assert "objectives.scal" in done.output


def test_both_train_on_the_same_pairs_of_a_catalogue(tmp_path: Path) -> None:
    from train_sizes import experiment_of, write_batches, written_batches

    from data_pipelines.prepare import prepare
    from data_pipelines.synthetic import SyntheticSpec, write_catalogue

    spec = SyntheticSpec(products=48, dev_queries=0, image_size=(24, 32))
    tables = write_catalogue(spec, tmp_path / "tables")
    prepare(tables.products, tmp_path / "data", interactions=str(tables.interactions), progress=False)
    (tmp_path / "batches").mkdir()
    written = write_batches(experiment_of("toy"), str(tmp_path / "data"), tmp_path / "batches", 2)
    ours, theirs = (list(written_batches(tmp_path / "batches", who)) for who in ("ours", "torch"))
    assert len(ours) == len(theirs) == 2
    for our, their in zip(ours, theirs, strict=True):
        assert np.array_equal(our["product_key"], their["product_key"])
        assert np.array_equal(our["image"], their["image"])
        for name, longest in (("query_ids", 8), ("title_ids", 12)):
            length = their[name].shape[1]
            assert our[name].shape[1] == min(longest, -(-length // 4) * 4)
            assert np.array_equal(our[name][:, :length], their[name])
            assert (our[name][:, length:] == written.model.pad_id).all()
            assert (their[name][:, -1] != written.model.pad_id).any() or length == 3
    assert written.model.vocab_size is not None
    assert max(batch["title_ids"].max() for batch in ours) < written.model.vocab_size


@pytest.mark.parametrize("size", ["toy", "sketch", "base"])
def test_torch_has_as_many_parameters(size: Any) -> None:
    torch = pytest.importorskip("torch")
    from torch_twin import Twin, parameters
    from train_sizes import experiment_of

    from make_jax.model import build_model

    experiment = experiment_of(size)
    ours = jax.eval_shape(build_model(experiment).init, jax.random.key(0))
    with torch.device("meta"):
        theirs = parameters(Twin(experiment))
    assert theirs == pytest.approx(sum(leaf.size for leaf in jax.tree.leaves(ours)), rel=0.03)


def test_torch_learns_a_batch_by_heart() -> None:
    torch = pytest.importorskip("torch")
    from torch_twin import NEEDED, train_step
    from train_sizes import experiment_of, random_batches

    experiment = experiment_of("toy")
    torch.manual_seed(0)
    step = train_step(experiment, "cpu", bf16=False, compiled=False)
    [batch] = random_batches(experiment, 1)
    losses = [float(step({name: torch.from_numpy(batch[name]) for name in NEEDED})) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
