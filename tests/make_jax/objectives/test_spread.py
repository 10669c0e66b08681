"""Alignment, uniformity and moments, against loops over pairs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.objectives import spread as module
from make_jax.objectives.spread import spread


def unit(rng: np.random.Generator, rows: int, width: int) -> np.ndarray:
    found = rng.normal(size=(rows, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def uniformity(rows: np.ndarray) -> float:
    """Over all pairs of two rows, one at a time."""
    near = [np.exp(-2 * ((a - b) ** 2).sum()) for i, a in enumerate(rows) for b in rows[:i]]
    return float(np.log(np.mean(near))) if near else 0.0


@given(seed=st.integers(0, 99), present=st.lists(st.booleans(), min_size=6, max_size=6))
@settings(max_examples=20)
def test_what_a_loop_over_pairs_finds(seed: int, present: list[bool]) -> None:
    rng, shown = np.random.default_rng(seed), np.array(present)
    queries, products = unit(rng, 6, 5), unit(rng, 6, 5) * shown[:, None]
    found = spread(queries, products, shown)
    near = [((q - p) ** 2).sum() for q, p, there in zip(queries, products, present, strict=True) if there]
    assert float(found["alignment"]) == pytest.approx(np.mean(near) if near else 0.0, abs=1e-5)
    assert float(found["query_uniformity"]) == pytest.approx(uniformity(queries), abs=1e-5)
    assert float(found["product_uniformity"]) == pytest.approx(uniformity(products[shown]), abs=1e-5)
    np.testing.assert_allclose(found["moments"], [m.T @ m for m in (queries, products)], atol=1e-5)


def test_one_place_and_everywhere() -> None:
    shown = np.ones(64, bool)
    same = np.tile(unit(np.random.default_rng(0), 1, 8), (64, 1))
    found = spread(same, same, shown)
    assert float(found["alignment"]) == 0
    assert float(found["query_uniformity"]) == pytest.approx(0, abs=1e-6)
    wide = unit(np.random.default_rng(1), 64, 512)
    assert float(spread(wide, wide, shown)["product_uniformity"]) == pytest.approx(-4, abs=0.05)


@pytest.mark.parametrize(("rows", "taken"), [(4, [0, 1, 2, 3]), (12, [0, 3, 6, 9]), (7, [0, 2, 4]), (9, [0, 3, 6])])
def test_of_a_large_batch_some_rows_count(monkeypatch: pytest.MonkeyPatch, rows: int, taken: list[int]) -> None:
    monkeypatch.setattr(module, "SAMPLE", 4)
    rng, shown = np.random.default_rng(2), np.ones(rows, bool)
    queries, products = unit(rng, rows, 3), unit(rng, rows, 3)
    found, expected = spread(queries, products, shown), spread(queries[taken], products[taken], shown[taken])
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
