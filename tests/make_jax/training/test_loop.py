"""The loop: what it writes, what it refuses, and that a signal or a bad loss leaves a good run behind."""

from __future__ import annotations

import dataclasses
import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from random_batches import Batches

from experiments import tiny
from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.overrides import apply_overrides
from make_jax.run import read_metrics
from make_jax.training.checkpoints import Checkpoints
from make_jax.training.loop import train
from make_jax.training.metrics_log import MetricsLog
from make_jax.training.policy import NonFiniteLoss


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
    for name in ("examples_per_second", "input_wait", "learning_rate", "seconds", "host_memory_gib"):
        assert [r["step"] for r in records if name in r] == [3, 4, 6]
    assert all(0 <= r["input_wait"] <= 1 for r in records if "input_wait" in r)
    assert 1 <= next(r for r in records if "seconds" in r)["product_rank"] <= 32
    assert all(-4.5 < r["query_uniformity"] <= 0 < r["update_ratio"] < 1 for r in records if "loss" in r)
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


def test_what_is_skipped_and_what_is_waited_for_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Slow(Batches):
        def __next__(self) -> dict[str, np.ndarray]:
            if self.step == 4:
                time.sleep(2.0)
            return super().__next__()

    wild = "optimizer.learning_rate=1e30", "optimizer.clip_norm=1e30", "optimizer.warmup_share=0"
    wild += "model.modalities=title", "objectives.query_image=0"  # less to compile
    watched = "training.non_finite=skip", "training.slow_seconds=0.3", "training.slow_factor=2", "training.log_every=1"
    outcome = train(experiment(*wild, *watched), tmp_path, Slow, no_dev)
    assert outcome.finished
    records = read_metrics(tmp_path / "metrics.jsonl")
    skipped = [r for r in records if "gradient_norm" not in r]
    assert [r["step"] for r in records] == [1, 2, 3, 4, 5, 6]
    assert len(skipped) == records[-1]["steps_skipped"] > 0
    assert all(np.isfinite(leaf).all() for leaf in _leaves(outcome.params))
    assert f"{len(skipped)} so far" in caplog.text
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert any(": waiting for input, for" in line and "reading nowhere" in line for line in caplog.messages)


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
    config = experiment("training.checkpoint_every=0", "training.eval_every=1")
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


@pytest.mark.slow
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
