"""The rank of vectors against their singular values, and memory that is really used."""

from __future__ import annotations

import math
import mmap

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from make_jax.training import health
from make_jax.training.health import SparingRanks, effective_rank, memory, ranks


def of_singular_values(vectors: np.ndarray) -> float:
    singular = np.linalg.svd(vectors.astype(np.float64), compute_uv=False)
    shares = singular[singular > 0] / singular.sum()
    return math.exp(-sum(share * math.log(share) for share in shares))


@given(seed=st.integers(0, 99), rows=st.integers(8, 40), decay=st.floats(0.3, 1.0))
def test_rank_is_the_entropy_of_singular_values(seed: int, rows: int, decay: float) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.normal(size=(rows, 6)) * decay ** np.arange(6)).astype(np.float32)
    assert effective_rank(vectors.T @ vectors) == pytest.approx(of_singular_values(vectors), rel=1e-2)


def test_ranks_from_one_line_to_all_directions() -> None:
    line = np.outer(np.ones(50), np.arange(1, 33)).astype(np.float32) / 100
    found = ranks(np.stack([line.T @ line, np.eye(32, dtype=np.float32)]))
    assert found["query_rank"] == pytest.approx(1.0)
    assert found["product_rank"] == pytest.approx(32.0)


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_there_is_no_rank_of_nothing(value: float) -> None:
    assert math.isnan(effective_rank(np.full((4, 4), value, np.float32)))


def test_ranks_take_a_hundredth_of_the_time_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]

    def slowly(moments: np.ndarray) -> dict[str, float]:
        now[0] += 0.5
        return {"query_rank": 3.0}

    monkeypatch.setattr(health, "ranks", slowly)
    monkeypatch.setattr(health.time, "monotonic", lambda: now[0])
    sparing, moments, given = SparingRanks(), np.ones((2, 2, 2)), []
    for _ in range(7):
        given.append(bool(sparing(moments)))
        now[0] += 20
    assert given == [True, False, False] * 2 + [True]


def test_memory_grows_with_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    before = memory()["host_memory_gib"]
    # An eighth of a GiB straight from the kernel: malloc may have kept what tests before this one freed.
    with mmap.mmap(-1, 2**27) as held:
        for page in range(0, len(held), mmap.PAGESIZE):
            held[page] = 1
        assert memory()["host_memory_gib"] - before == pytest.approx(0.125, abs=0.03)
    full, empty = ({"bytes_in_use": size * 2**30, "peak_bytes_in_use": 2 * size * 2**30} for size in (3, 1))

    class Device:
        def __init__(self, stats: object) -> None:
            self.memory_stats = lambda: stats

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(empty), Device(full), Device(None)])
    assert {k: v for k, v in memory().items() if k.startswith("device")} == {
        "device_memory_gib": 3,
        "device_memory_peak_gib": 6,
    }
