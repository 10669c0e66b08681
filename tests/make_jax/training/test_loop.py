"""The loop: what it writes, what it refuses, and that a signal or a bad loss leaves a good run behind."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from random_batches import Batches

from experiments import tiny
from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.overrides import apply_overrides
from make_jax.run import read_metrics
from make_jax.training.checkpoint_files import saved_steps
from make_jax.training.checkpoints import Checkpoints
from make_jax.training.loop import NonFiniteLoss, train
from make_jax.training.metrics_log import MetricsLog


def experiment(*overrides: str) -> Experiment:
    return apply_overrides(tiny.get_config(), ["model.vocab_size=64", "training.steps=6", *overrides])


def no_dev(params: object) -> dict[str, float]:
    return {}


def test_every_step_is_recorded_and_dev_metrics_when_due(tmp_path: Path) -> None:
    seen = []
    outcome = train(
        experiment("training.eval_every=3", "training.log_every=4"),
        tmp_path,
        Batches,
        lambda params: seen.append(params) or {"r_precision": 0.5},
    )
    assert (outcome.step, outcome.finished, len(seen)) == (6, True, 2)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records if "loss" in r] == [1, 2, 3, 4, 5, 6]
    assert [r["step"] for r in records if "dev/r_precision" in r] == [3, 6]
    for name in ("examples_per_second", "input_wait", "learning_rate", "seconds"):
        assert [r["step"] for r in records if name in r] == [3, 4, 6]
    assert all(0 <= r["input_wait"] <= 1 for r in records if "input_wait" in r)
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert records[2]["compilations"] > 0


def test_tensorboard_reads_the_scalars(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with MetricsLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write(step, {"loss": 4.0 - step})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_a_non_finite_loss_stops_the_run_and_names_the_step(tmp_path: Path) -> None:
    calm = "training.checkpoint_every=2", "training.log_every=4"
    wild = experiment(*calm, "optimizer.learning_rate=1e30", "optimizer.clip_norm=1e30", "optimizer.warmup_share=0")
    with pytest.raises(NonFiniteLoss, match=r"loss of step \d is .*(nan|inf)"):
        train(wild, tmp_path, Batches, no_dev)
    recorded = [r["loss"] for r in read_metrics(tmp_path / "metrics.jsonl")]
    assert np.isfinite(recorded).all()
    assert (Checkpoints(tmp_path / "checkpoints", set).latest() or 0) <= len(recorded)


class SignalAfter:
    """An evaluation that sends this process a signal once it was called after so many steps."""

    def __init__(self, steps: int, number: signal.Signals) -> None:
        self.left, self.number = steps, number

    def __call__(self, params: object) -> dict[str, float]:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(self.number)
        return {}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_the_run_goes_on_exactly(tmp_path: Path, number: signal.Signals) -> None:
    config = experiment("training.checkpoint_every=0", "training.eval_every=1", "training.ema_decay=0.6")
    before = signal.getsignal(number)
    whole = train(config, tmp_path / "whole", Batches, no_dev)
    stopped = train(config, tmp_path / "cut", Batches, SignalAfter(4, number))
    assert (stopped.step, stopped.finished) == (4, False)
    assert signal.getsignal(number) == before
    resumed = train(config, tmp_path / "cut", Batches, no_dev)
    assert resumed.finished
    losses = [[r["loss"] for r in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("whole", "cut")]
    assert losses[0] == losses[1]
    for a, b in zip(_leaves(whole.params), _leaves(resumed.params), strict=True):
        np.testing.assert_array_equal(a, b)


def _leaves(params: object) -> list[np.ndarray]:
    import jax

    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)]


def test_the_average_is_judged_and_is_what_the_run_brings(tmp_path: Path) -> None:
    seen: dict[str, list[list[np.ndarray]]] = {"params": [], "average": []}
    ends = {}
    for name, decay in (("params", 0.0), ("average", 0.6)):
        config = experiment("training.checkpoint_every=0", "training.eval_every=1", f"training.ema_decay={decay}")
        ends[name] = train(
            config, tmp_path / name, Batches, lambda params, to=seen[name]: to.append(_leaves(params)) or {}
        )
    for position, final in enumerate(_leaves(ends["average"].params)):
        mean = np.zeros_like(final)
        for step, leaves in enumerate(seen["params"]):
            decay = min(0.6, step / (step + 9))
            mean = decay * mean + (1 - decay) * leaves[position]
            np.testing.assert_allclose(seen["average"][step][position], mean, rtol=1e-5, atol=1e-7)
        np.testing.assert_array_equal(final, seen["average"][-1][position])
    # The first average is the parameters themselves, bit by bit.
    for ours, theirs in zip(seen["average"][0], seen["params"][0], strict=True):
        np.testing.assert_array_equal(ours, theirs)


def _sigterm_after(seconds: float) -> None:
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM)).start()


def test_a_signal_leaves_a_long_evaluation_which_is_made_up_for(tmp_path: Path) -> None:
    config = experiment("training.checkpoint_every=0", "training.eval_every=3")

    def long(params: object) -> dict[str, float]:
        _sigterm_after(0.1)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            time.sleep(0.01)
        return {"r_precision": 0.0}

    began = time.monotonic()
    assert train(config, tmp_path, Batches, long)[1:] == (3, False)
    assert time.monotonic() - began < 100
    assert saved_steps(tmp_path / "checkpoints") == [3]
    assert train(config, tmp_path, Batches, lambda params: {"r_precision": 0.5}).finished
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [(r["step"], r["dev/r_precision"]) for r in records if "dev/r_precision" in r] == [(3, 0.5), (6, 0.5)]


def test_a_signal_does_not_wait_for_a_stalled_reader(tmp_path: Path) -> None:
    class Stalls(Batches):
        def __next__(self) -> dict[str, np.ndarray]:
            if self.step == 4:
                _sigterm_after(0.5)  # the steps before are done by then, or are not
                threading.Event().wait(20)
            return super().__next__()

    outcome = train(experiment(), tmp_path, Stalls, no_dev)
    assert not outcome.finished
    assert saved_steps(tmp_path / "checkpoints") == [outcome.step]


def test_the_best_is_kept_even_if_the_last_evaluation_decides(tmp_path: Path) -> None:
    values = iter([0.5, 0.7, 0.9])
    settings = ("training.eval_every=2", "training.keep_checkpoints=1", "training.keep_best=1")

    def dev(params: object) -> dict[str, float]:
        return {"r_precision": next(values)}

    train(experiment(*settings), tmp_path / "rising", Batches, dev)
    assert saved_steps(tmp_path / "rising" / "checkpoints") == [6]
    values = iter([0.5, 0.7, 0.6])
    train(experiment(*settings), tmp_path / "falling", Batches, dev)
    assert saved_steps(tmp_path / "falling" / "checkpoints") == [4, 6]


def test_many_steps_need_no_more_memory_and_compile_nothing_more(tmp_path: Path) -> None:
    held = []

    def sample(params: object) -> dict[str, float]:
        held.append(psutil.Process().memory_info().rss)
        return {}

    habits = ("training.steps=160", "training.eval_every=20", "training.checkpoint_every=20", "training.log_every=20")
    train(experiment(*habits), tmp_path, Batches, sample)
    assert np.mean(held[-3:]) < 1.03 * np.mean(held[2:5])
    compiled = [r["compilations"] for r in read_metrics(tmp_path / "metrics.jsonl") if "compilations" in r]
    assert compiled[0] > 0
    assert not any(compiled[2:])


def test_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    config = experiment()
    train(config, tmp_path, Batches, no_dev)
    before = (tmp_path / "metrics.jsonl").read_text()

    class Never(Batches):
        def __next__(self) -> dict[str, np.ndarray]:
            raise AssertionError(f"a batch is asked for, from step {self.step} on")

    assert train(config, tmp_path, Never, no_dev).finished
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_a_batch_that_the_mesh_cannot_share_out_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"batch_size 12 .*8; use 8"):
        train(experiment("training.batch_size=12"), tmp_path, Batches, no_dev)


def test_a_checkpoint_restores_on_another_mesh(tmp_path: Path) -> None:
    start = experiment("training.steps=6", "training.eval_every=1", "mesh.data=8")
    whole = train(start, tmp_path / "whole", Batches, no_dev)
    train(start, tmp_path / "cut", Batches, SignalAfter(3, signal.SIGTERM))
    moved = dataclasses.replace(start, mesh=dataclasses.replace(start.mesh, data=1, fsdp=4, tensor=2))
    resumed = train(moved, tmp_path / "cut", Batches, no_dev)
    assert resumed.finished
    losses = [[r["loss"] for r in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("whole", "cut")]
    np.testing.assert_allclose(losses[0], losses[1], rtol=2e-5)
    assert whole.finished


def test_a_damaged_checkpoint_is_one_line(tmp_path: Path) -> None:
    train(experiment(), tmp_path, Batches, no_dev)
    for file in (tmp_path / "checkpoints").rglob("*"):
        if file.is_file() and file.stat().st_size > 2000:
            file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be restored") as error:
        train(experiment(), tmp_path, Batches, no_dev)
    assert "\n" not in str(error.value)


def test_saving_keeps_the_last_ones_only(tmp_path: Path) -> None:
    train(experiment("training.checkpoint_every=1", "training.keep_checkpoints=2"), tmp_path, Batches, no_dev)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir() if p.name.isdigit()) == ["5", "6"]
    assert Checkpoints(tmp_path / "checkpoints", set).latest() == 6


def test_metrics_past_the_resume_step_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps({"step": s, "loss": 1.0}) + "\n" for s in range(1, 8)) + '{"step": 8, "lo')
    with MetricsLog(tmp_path, resume_step=5) as log:
        log.write(6, {"loss": 2.0})
    assert [(r["step"], r["loss"]) for r in read_metrics(file)] == [(s, 1.0) for s in range(1, 6)] + [(6, 2.0)]
