"""Steps that go wrong: what is skipped leaves no trace, and what is not skipped is not changed."""

from __future__ import annotations

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.config import MeshConfig, TrainingConfig
from make_jax.errors import UserError
from make_jax.training import policy
from make_jax.training.mesh import make_mesh, place_batch
from make_jax.training.policy import NonFiniteLoss, check, judge, new_watch
from make_jax.training.step import Trainer, TrainState, make_trainer

CALM = {"non_finite": "stop", "spikes": "off"}
WARY = {"non_finite": "skip", "spikes": "skip", "spike_factor": 5.0}


class Line:
    """A straight line through points, with a memory of the last ones: all that a training step needs of a model."""

    def init(self, rng: jax.Array) -> Any:
        return {"kernel": jax.random.normal(rng, (3,))}

    def init_memory(self) -> Any:
        return jnp.zeros((1, 8))

    def losses(self, params: Any, memory: Any, batch: Any, rng: jax.Array, layout: Any = None) -> Any:
        noise = 0.01 * jax.random.normal(rng, (8,))
        loss = jnp.mean((batch["x"] @ params["kernel"] - batch["y"] + noise + 0.1 * memory[0]) ** 2)
        return loss, ({"scale": loss * 0}, batch["y"][None])


def points(step: int, factor: float = 1.0) -> dict[str, np.ndarray]:
    x = np.random.default_rng(step).normal(size=(8, 3)).astype(np.float32)
    return {"x": x, "y": (factor * x.sum(axis=1)).astype(np.float32)}


@pytest.fixture(autouse=True)
def soon_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy, "ENOUGH", 4)


@pytest.fixture(scope="module")
def mesh() -> Any:
    return make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])


def trainer(mesh: Any, **settings: Any) -> Trainer:
    return make_trainer(Line(), optax.adam(1e-2), mesh, 0, watching=TrainingConfig(**settings))


def run(mesh: Any, factors: list[float], **settings: Any) -> tuple[TrainState, list[dict[str, float]]]:
    made = trainer(mesh, **settings)
    state, records = made.init(), []
    for step, factor in enumerate(factors):
        state, metrics = made.step(state, place_batch(points(step, factor), mesh))
        records.append({name: float(value) for name, value in metrics.items()})
    return jax.device_get(state), records


def equal(one: Any, other: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_without_anything_wrong_no_bit_changes(mesh: Any) -> None:
    (calm, plain), (wary, watched) = run(mesh, [1.0] * 8, **CALM), run(mesh, [1.0] * 8, **WARY)
    equal(calm[:4], wary[:4])
    assert [r["loss"] for r in plain] == [r["loss"] for r in watched]
    assert watched[-1]["steps_skipped"] == 0
    assert "steps_skipped" not in plain[-1]


@pytest.mark.parametrize("factor", [np.nan, np.inf, 1e3])
def test_a_skipped_step_leaves_no_trace(mesh: Any, factor: float) -> None:
    made = trainer(mesh, **WARY)
    state = made.init()
    for step in range(6):
        state, _ = made.step(state, place_batch(points(step), mesh))
    before = jax.device_get(state)
    state, metrics = made.step(state, place_batch(points(99, factor), mesh))
    after = jax.device_get(state)
    equal(before[1:4], after[1:4])
    assert after.step == before.step + 1
    assert (after.watch.skipped, metrics["steps_skipped"]) == (1, 1)
    assert metrics["spike"] == np.isfinite(factor)
    state, metrics = made.step(state, place_batch(points(100), mesh))
    assert np.abs(state.params["kernel"] - after.params["kernel"]).max() > 0
    assert (metrics["spike"], metrics["steps_skipped"]) == (0, 1)


def test_what_is_only_logged_is_done(mesh: Any) -> None:
    factors = [1.0] * 6 + [1e3, 1.0]
    (plain, _), (told, records) = run(mesh, factors, **CALM), run(mesh, factors, spikes="log")
    equal(plain[:4], told[:4])
    assert [r["spike"] for r in records] == [0] * 6 + [1, 1]  # the last one is seen with what the memory holds of it


def spikes(losses: list[float], norms: list[float], factor: float) -> list[bool]:
    """By the words: above factor times the median of the finite steps before, once there are enough of them."""
    found, before = [], []
    for now in zip(losses, norms, strict=True):
        finite, late = bool(np.isfinite(now).all()), np.array(before[-policy.WINDOW :])
        medians = np.sort(late, axis=0)[len(late) // 2] if len(late) >= policy.ENOUGH else np.array([np.inf] * 2)
        found.append(finite and bool((np.float32(now) > np.float32(factor) * medians).any()))
        before += [np.float32(now)] if finite else []
    return found


VALUES = st.sampled_from([1.0, 1.5, 2.0, 2.5, 3.0, 7.0, 40.0, np.nan, np.inf])


@given(values=st.lists(st.tuples(VALUES, VALUES), min_size=30, max_size=60))
@settings(max_examples=20)
def test_spikes_are_above_a_running_median(values: list[tuple[float, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(policy, "WINDOW", 16)
        patch.setattr(policy, "ENOUGH", 8)
        config, watch, found = TrainingConfig(spikes="log", spike_factor=2.0), new_watch(), []
        step = jax.jit(lambda watch, loss, norm: judge(config, watch, loss, norm)[1:])
        for loss, norm in values:
            watch, metrics = step(watch, np.float32(loss), np.float32(norm))
            found.append(bool(metrics["spike"]))
        assert found == spikes(*map(list, zip(*values, strict=True)), 2.0)


FINE = {"loss": 1.0, "gradient_norm": 2.0}


def test_what_is_wrong_is_said_once_a_step(caplog: pytest.LogCaptureFixture) -> None:
    config = TrainingConfig(non_finite="skip", spikes="log", max_skipped=2)
    with caplog.at_level(logging.WARNING, "make_jax"):
        check(config, 1, FINE | {"spike": 0.0, "steps_skipped": 0.0})
        check(config, 2, {"loss": float("nan"), "gradient_norm": 2.0, "spike": 0.0, "steps_skipped": 1.0})
        check(config, 3, {"loss": 9.0, "gradient_norm": 2.0, "spike": 1.0, "steps_skipped": 1.0})
    nothing, spike = caplog.messages
    assert nothing == "step 2: loss nan, gradient norm 2: not finite; the update is skipped, 1 so far"
    assert "more than 5 times the median of late steps; the update is made all the same" in spike
    with pytest.raises(NonFiniteLoss, match=r"3 steps were skipped up to step 9.*training\.max_skipped 2"):
        check(config, 9, FINE | {"loss": float("inf"), "steps_skipped": 3.0})


@pytest.mark.parametrize("name", ["loss", "gradient_norm"])
def test_by_default_what_is_not_finite_stops(name: str) -> None:
    check(TrainingConfig(), 1, FINE)
    with pytest.raises(NonFiniteLoss, match=r"step 7 .*training\.non_finite=skip"):
        check(TrainingConfig(), 7, FINE | {name: float("nan")})


@pytest.mark.parametrize(
    "wrong",
    [{"spike_factor": 1.0}, {"max_skipped": -1}, {"slow_seconds": 0.0}, {"slow_factor": 0.5}, {"hang_seconds": 5.0}],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(UserError, match=rf"training\.{name} is"):
        TrainingConfig(**wrong)
