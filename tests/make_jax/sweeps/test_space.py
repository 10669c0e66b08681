"""Grids and random draws."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from make_jax.errors import UserError
from make_jax.sweeps import choice, draws, grid, log_uniform, uniform, whole
from make_jax.sweeps.space import describe


def test_a_grid_has_every_combination_once() -> None:
    values = {"optimizer.learning_rate": [1e-3, 1e-2], "model.fusion.kind": ["mean"], "data.flip": [True, False]}
    found = grid(values)
    assert [tuple(setting.values()) for setting in found.values()] == list(itertools.product(*values.values()))
    assert next(iter(found)) == "learning_rate=0.001,kind=mean,flip=true"


def test_keys_that_end_alike_are_written_in_full() -> None:
    name = describe({"model.query.transformer.layers": 1, "model.title.transformer.layers": 2, "data.crop": None})
    assert name == "model.query.transformer.layers=1,model.title.transformer.layers=2,crop=none"


@pytest.mark.parametrize("values", [[], "mean"])
def test_a_grid_needs_lists(values: object) -> None:
    with pytest.raises(UserError, match=r"model\.fusion\.kind"):
        grid({"model.fusion.kind": values})  # type: ignore[dict-item]


@given(st.floats(1e-8, 1e3), st.floats(1.001, 1e4), st.integers(0, 2**32))
def test_draws_stay_within_their_bounds(low: float, factor: float, seed: int) -> None:
    high = low * factor
    source = random.Random(seed)
    for distribution in (uniform(low, high), log_uniform(low, high)):
        value = distribution.draw(source)
        assert low <= value <= high
    assert whole(2, 5).draw(source) in range(2, 6)
    assert choice("a", None).draw(source) in ("a", None)


def test_log_uniform_favours_no_order_of_magnitude() -> None:
    source, distribution = random.Random(0), log_uniform(1e-5, 1e-1)
    logs = [math.log10(distribution.draw(source)) for _ in range(4000)]
    counts = [sum(low <= value < low + 1 for value in logs) for low in range(-5, -1)]
    assert min(counts) > 900


def test_draws_are_the_same_for_a_seed_and_more_of_them_only_add() -> None:
    space = {"optimizer.learning_rate": log_uniform(1e-4, 1e-2), "model.fusion.layers": whole(0, 2)}
    few, many = draws(space, 3, seed=7), draws(space, 6, seed=7)
    assert list(many.items())[:3] == list(few.items())
    assert draws(space, 3, seed=8) != few


def test_impossible_distributions_are_refused() -> None:
    for make in (
        lambda: uniform(1, 1), lambda: log_uniform(0, 1), lambda: whole(3, 2), lambda: uniform(0, math.inf), choice,
        lambda: draws({"a": choice(1)}, 0),
    ):  # fmt: skip
        with pytest.raises(UserError):
            make()
