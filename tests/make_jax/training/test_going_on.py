"""What a run does beside its steps: it is evaluated, averaged, saved and stopped, and goes on as if nothing had been.

With a model of one matrix, for which nothing has to be compiled for long.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import psutil
import pytest
from random_batches import Batches

from experiments import tiny
from make_jax.config import Experiment
from make_jax.overrides import apply_overrides
from make_jax.run import read_metrics
from make_jax.training.checkpoint_files import saved_steps
from make_jax.training.loop import train


class OneMatrix:
    """A model as training knows them; its loss has noise in it, as dropout would be."""

    def init(self, rng: jax.Array) -> dict[str, Any]:
        return {"tower": {"up": {"kernel": jax.random.normal(rng, (8, 8))}}}

    def init_memory(self) -> tuple[()]:
        return ()

    def losses(self, params: Any, memory: Any, batch: Any, rng: jax.Array, layout: Any = None) -> Any:
        seen = batch["query_ids"].astype(jnp.float32) / 64 + jax.random.normal(rng, (16, 8))
        return jnp.mean(jnp.square(seen @ params["tower"]["up"]["kernel"])), ({}, memory)


@pytest.fixture(autouse=True)
def small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("make_jax.training.loop.build_model", lambda experiment: OneMatrix())


def experiment(*overrides: str) -> Experiment:
    return apply_overrides(tiny.get_config(), ["training.steps=6", "training.checkpoint_every=0", *overrides])


def kernel(params: Any) -> np.ndarray:
    return np.asarray(params["tower"]["up"]["kernel"])


def no_dev(params: object) -> dict[str, float]:
    return {}


def sigterm_after(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()


def losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run / "metrics.jsonl") if "loss" in record]


def test_the_average_is_judged_and_is_what_the_run_brings(tmp_path: Path) -> None:
    seen: dict[float, list[np.ndarray]] = {0.0: [], 0.6: []}

    def run(decay: float, *overrides: str) -> np.ndarray:
        def remember(params: Any) -> dict[str, float]:
            seen[decay].append(kernel(params))
            return {}

        config = experiment("training.eval_every=1", f"training.ema_decay={decay}", *overrides)
        return kernel(train(config, tmp_path / str(decay), Batches, remember).params)

    run(0.0)
    final = run(0.6, "mesh.fsdp=4")
    mean = np.zeros((8, 8), np.float32)
    for step, (parameters, average) in enumerate(zip(seen[0.0], seen[0.6], strict=True)):
        decay = min(0.6, step / (step + 9))
        mean = decay * mean + (1 - decay) * parameters
        np.testing.assert_allclose(average, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(final, seen[0.6][-1])
    assert not np.allclose(final, seen[0.0][-1], atol=1e-4)


def test_an_average_goes_on_bit_by_bit_and_on_another_mesh(tmp_path: Path) -> None:
    class Signals:
        """An evaluation that is told to stop when it is called for the fourth time."""

        calls = 0

        def __call__(self, params: object) -> dict[str, float]:
            self.calls += 1
            if self.calls == 4:
                signal.raise_signal(signal.SIGTERM)
            return {}

    habits = ("training.eval_every=1", "training.ema_decay=0.6")
    whole = train(experiment(*habits), tmp_path / "whole", Batches, no_dev)
    for name, mesh in (("cut", "mesh.data=8"), ("moved", "mesh.fsdp=4")):
        assert train(experiment(*habits), tmp_path / name, Batches, Signals())[1:] == (4, False)
        resumed = train(experiment(*habits, mesh), tmp_path / name, Batches, no_dev)
        assert resumed.finished
        np.testing.assert_allclose(kernel(resumed.params), kernel(whole.params), rtol=0 if name == "cut" else 1e-5)
    assert losses(tmp_path / "cut") == losses(tmp_path / "whole")


@pytest.mark.parametrize(("every", "left_at", "evaluated"), [(3, 3, [3, 6]), (0, 6, [6])])
def test_a_signal_leaves_a_long_evaluation_which_is_made_up_for(
    tmp_path: Path, every: int, left_at: int, evaluated: list[int]
) -> None:
    config = experiment(f"training.eval_every={every}")
    left = []

    def long(params: object) -> dict[str, float]:
        sigterm_after(0.1)
        try:
            deadline = time.monotonic() + 120
            while time.monotonic() < deadline:
                time.sleep(0.01)
        except Exception:  # as somebody on the way may do
            left.append("caught")
        return {"r_precision": 0.0}

    began = time.monotonic()
    assert train(config, tmp_path, Batches, long)[1:] == (left_at, False)
    assert time.monotonic() - began < 100
    assert left == []
    assert saved_steps(tmp_path / "checkpoints") == [left_at]
    assert train(config, tmp_path, Batches, lambda params: {"r_precision": 0.5}).finished
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert {r["step"]: r["dev/r_precision"] for r in records if "dev/r_precision" in r} == dict.fromkeys(evaluated, 0.5)


def test_an_evaluation_that_is_killed_costs_no_step(tmp_path: Path) -> None:
    class Killed(BaseException):
        """In place of a SIGKILL."""

    def dies(params: object) -> dict[str, float]:
        raise Killed

    with pytest.raises(Killed):
        train(experiment(), tmp_path, Batches, dies)
    judged = []
    outcome = train(experiment(), tmp_path, Batches, lambda params: judged.append(1) or {"r_precision": 0.5})
    assert (outcome.finished, len(judged)) == (True, 1)
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl") if "loss" in r] == [1, 2, 3, 4, 5, 6]


def test_a_signal_does_not_wait_for_a_stalled_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("make_jax.training.feed._PATIENCE", 0.1)

    class Stalls(Batches):
        def __next__(self) -> dict[str, np.ndarray]:
            if self.step == 4:
                sigterm_after(0.5)
                threading.Event().wait(60)
            return super().__next__()

    began = time.monotonic()
    outcome = train(experiment(), tmp_path, Stalls, no_dev)
    assert time.monotonic() - began < 50
    assert not outcome.finished
    assert saved_steps(tmp_path / "checkpoints") == [outcome.step]


def test_the_best_is_kept_even_where_the_last_evaluation_decides(tmp_path: Path) -> None:
    settings = ("training.eval_every=2", "training.keep_checkpoints=1", "training.keep_best=1")
    for name, values, kept in (("rising", [0.5, 0.7, 0.9], [6]), ("falling", [0.5, 0.7, 0.6], [4, 6])):
        found = iter(values)
        train(experiment(*settings), tmp_path / name, Batches, lambda params, found=found: {"r_precision": next(found)})
        assert saved_steps(tmp_path / name / "checkpoints") == kept


def test_many_steps_need_no_more_memory_and_compile_nothing_more(tmp_path: Path) -> None:
    held = []

    def sample(params: object) -> dict[str, float]:
        held.append(psutil.Process().memory_info().rss)
        return {}

    habits = ("training.steps=240", "training.eval_every=30", "training.checkpoint_every=30", "training.log_every=15")
    train(experiment(*habits), tmp_path, Batches, sample)
    assert np.mean(held[-3:]) < 1.03 * np.mean(held[2:5])
    compiled = [r["compilations"] for r in read_metrics(tmp_path / "metrics.jsonl") if "compilations" in r]
    assert compiled[0] > 0
    assert not any(compiled[4:])
