"""Which steps are traced, and that a trace is there to open."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from make_jax.training import profile
from make_jax.training.profile import Profile


@pytest.mark.parametrize(
    ("start", "end", "traced"),
    [(0, 100, [11, 12, 13, 14, 15]), (40, 100, [51, 52, 53, 54, 55]), (0, 7, [3, 4, 5, 6, 7]), (0, 2, [1, 2])],
)
def test_late_steps_are_traced(
    start: int, end: int, traced: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(profile.jax.profiler, "start_trace", lambda folder: calls.append(f"start in {folder}"))
    monkeypatch.setattr(profile.jax.profiler, "stop_trace", lambda: calls.append("stop"))
    inside = []
    with Profile(tmp_path, start, end) as tracing:
        for step in range(start + 1, end + 1):
            with tracing.step(step):
                if len(calls) == 1:
                    inside.append(step)
            tracing.done(step, jnp.zeros(()))
    assert inside == traced
    assert calls == [f"start in {tmp_path}", "stop"]


def test_a_run_that_ends_early_ends_its_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[str] = []
    monkeypatch.setattr(profile.jax.profiler, "start_trace", lambda _: calls.append("start"))
    monkeypatch.setattr(profile.jax.profiler, "stop_trace", lambda: calls.append("stop"))
    with Profile(tmp_path, 0, 100) as tracing:
        for step in range(1, 13):
            with tracing.step(step):
                pass
            tracing.done(step, jnp.zeros(()))
    assert calls == ["start", "stop"]


def test_a_trace_can_be_opened(tmp_path: Path) -> None:
    with Profile(tmp_path, 0, 1) as tracing, tracing.step(1):
        result = jax.jit(lambda x: x @ x)(jnp.ones((64, 64)))
        tracing.done(1, result)
    (trace,) = tmp_path.rglob("*.xplane.pb")
    assert b"train" in trace.read_bytes()


def test_nothing_is_traced_unless_asked_for(tmp_path: Path) -> None:
    with Profile(None, 0, 1) as tracing, tracing.step(1):
        tracing.done(1, jnp.zeros(()))
    assert not list(tmp_path.iterdir())
