"""Which checkpoints stay: by each rule alone, by all together, and whatever was or was not evaluated."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from make_jax.config import TrainingConfig
from make_jax.errors import UserError
from make_jax.training.keeping import dev_metrics, dev_record, why_kept

STEPS = [10, 20, 30, 40, 50, 60]
JUDGED = {20: {"r_precision": 0.5}, 30: {"r_precision": 0.7}, 40: {"r_precision": math.nan}, 50: {"r_precision": 0.7}}


def config(**settings: object) -> TrainingConfig:
    return TrainingConfig(**{"checkpoint_every": 10, "eval_every": 10} | settings)


def test_each_rule_says_why() -> None:
    assert why_kept(config(keep_checkpoints=2), STEPS, JUDGED) == {50: "last 2", 60: "last 2"}
    found = why_kept(config(keep_checkpoints=1, keep_every=20, keep_best=2), STEPS, JUDGED)
    best = "best 2 by r_precision"
    assert found == {20: "every 20", 30: best, 40: "every 20", 50: best, 60: "last 1, every 20"}


def test_the_lowest_may_be_the_best_and_of_equals_it_is_the_earlier_one() -> None:
    best = {"keep_checkpoints": 1, "keep_best": 1}
    assert list(why_kept(config(**best), STEPS, JUDGED)) == [30, 60]
    assert list(why_kept(config(**best, best_mode="min"), STEPS, JUDGED)) == [20, 60]
    assert list(why_kept(config(**best, best_metric="mrr"), STEPS, JUDGED)) == [60]


@given(
    steps=st.sets(st.integers(0, 500)),
    values=st.dictionaries(st.integers(0, 500), st.floats(0, 1) | st.just(math.nan)),
    last=st.integers(1, 5),
    every=st.integers(0, 8),
    best=st.integers(0, 4),
)
def test_all_rules_together(steps: set[int], values: dict[int, float], last: int, every: int, best: int) -> None:
    settings = config(keep_checkpoints=last, keep_every=every * 10, keep_best=best)
    kept = why_kept(settings, steps, {step: {"r_precision": value} for step, value in values.items()})
    assert set(kept) <= steps
    assert set(sorted(steps)[-last:]) <= set(kept)
    assert {step for step in steps if every and step % (every * 10) == 0} <= set(kept)
    judged = [values[step] for step in steps if math.isfinite(values.get(step, math.nan))]
    chosen = [values[step] for step, why in kept.items() if "best" in why]
    assert sorted(chosen) == sorted(judged)[len(judged) - len(chosen) :]
    assert len(chosen) == min(best, len(judged))


def test_metrics_are_read_as_they_were_written() -> None:
    records = [{"step": 3, "loss": 1.0}, {"step": 3, **dev_record({"mrr": 0.5})}, {"step": 6, **dev_record({"mrr": 1})}]
    assert dev_metrics(records) == {3: {"mrr": 0.5}, 6: {"mrr": 1}}
    assert dev_metrics(records, last=5) == {3: {"mrr": 0.5}}


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"keep_every": 15}, ["training.keep_every is 15", "training.checkpoint_every is 10", "multiple"]),
        ({"keep_every": 10, "checkpoint_every": 0}, ["training.checkpoint_every is 0"]),
        ({"keep_best": 1, "eval_every": 0}, ["training.keep_best is 1", "training.eval_every"]),
        ({"keep_best": -1}, ["training.keep_best is -1"]),
        ({"ema_decay": 1.0}, ["training.ema_decay is 1.0"]),
    ],
)
def test_rules_that_keep_nothing_are_refused(settings: dict[str, object], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        config(**settings)
    for part in parts:
        assert part in str(error.value)
