"""Fine-tuning: frozen parts stay to the bit, others learn at their own rate, and a run starts from another."""

from __future__ import annotations

import json
import re

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import tiny
from make_jax.config import OptimizerConfig
from make_jax.errors import UserError
from make_jax.overrides import apply_overrides, from_dict, to_json
from make_jax.training.mesh import path_name
from make_jax.training.optimizer import check_patterns, hold, make_optimizer, rate_factors

PARAMS = {
    "title": {
        "tokens": {"embedding": np.ones((4, 2), np.float32)},
        "transformer": {"layers": {"up": {"kernel": np.ones((3, 2, 2), np.float32) * [[[1]], [[2]], [[3]]]}}},
    },
    "query": {"transformer": {"layers": {"up": {"kernel": np.ones((1, 2, 2), np.float32)}}}},
    "cross_modal": {"layers": {"title": {"up": {"kernel": np.ones((1, 2, 2), np.float32)}}}},
    "adaptation": {"gate": {"bias": np.zeros(2, np.float32)}},
}


def named(tree) -> dict[str, object]:
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def trained(config: OptimizerConfig, steps: int = 3) -> tuple[dict[str, np.ndarray], object]:
    """The parameters after steps of the same gradients, and the state of the optimizer."""
    optimizer = make_optimizer(config, steps)
    params, state = PARAMS, optimizer.init(PARAMS)

    @jax.jit
    def step(params, state):
        updates, state = optimizer.update(jax.tree.map(lambda leaf: 0.1 * leaf + 0.01, params), state, params)
        return jax.tree.map(lambda leaf, update: leaf + update, params, updates), state

    for _ in range(steps):
        params, state = step(params, state)
    return {name: np.asarray(leaf) for name, leaf in named(params).items()}, state


def test_what_is_frozen_stays_to_the_bit_and_has_no_moments() -> None:
    found, state = trained(OptimizerConfig(frozen=("^title/t", "cross_modal/layer_[01]/")))
    kept = {name for name, leaf in named(PARAMS).items() if np.array_equal(leaf, found[name])}
    assert kept == {name for name in found if re.search("^title|^cross_modal", name)}
    moments = [leaf.size for name, leaf in named(state).items() if "/mu/" in name or "/nu/" in name]
    assert sum(moments) == 2 * sum(leaf.size for name, leaf in named(PARAMS).items() if name not in kept)


def test_some_layers_of_a_stack_can_be_frozen() -> None:
    config = OptimizerConfig(frozen=(r"title/transformer/layer_[01]/",))
    found, _ = trained(config)
    name = "title/transformer/layers/up/kernel"
    moved = (found[name] != named(PARAMS)[name]).any(axis=(1, 2))
    assert moved.tolist() == [False, False, True]
    gradients = jax.grad(lambda p: sum(leaf.sum() for leaf in jax.tree.leaves(hold(config, p))))(PARAMS)
    assert np.asarray(named(gradients)[name]).any(axis=(1, 2)).tolist() == [False, False, True]


def test_the_gradient_stops_at_what_is_frozen() -> None:
    config = OptimizerConfig(frozen=("^title/",))
    gradients = jax.grad(lambda p: sum(leaf.sum() for leaf in jax.tree.leaves(hold(config, p))))(PARAMS)
    for name, leaf in named(gradients).items():
        assert np.asarray(leaf).any() != name.startswith("title/")


def test_clipping_does_not_count_what_is_frozen() -> None:
    free = "^query"
    alone, _ = trained(OptimizerConfig(frozen=(f"^(?!{free[1:]})",), clip_norm=0.01))
    beside, _ = trained(OptimizerConfig(clip_norm=1e9))
    # Adam scales the clipping away but for its epsilon: had the other gradients counted, nothing would be left.
    name = "query/transformer/layers/up/kernel"
    np.testing.assert_allclose(alone[name], beside[name], rtol=1e-3)


@given(st.floats(0.1, 1.0), st.floats(0.01, 3.0))
def test_rates_are_factors_and_the_first_pattern_counts(decay: float, rate: float) -> None:
    config = OptimizerConfig(layer_decay=decay, rates=(("adaptation", rate), ("query", 0.5), ("query/trans", 9.0)))
    factors = named(rate_factors(config, PARAMS))
    # Above the title's last layer there is one cross-modal layer; embeddings lie below the first layer.
    expected = {
        "title/tokens/embedding": decay**5,
        "title/transformer/layers/up/kernel": np.reshape([decay**4, decay**3, decay**2], (3, 1, 1)),
        "cross_modal/layers/title/up/kernel": decay,
        "query/transformer/layers/up/kernel": 0.5 * decay,
        "adaptation/gate/bias": rate,
    }
    for name, factor in expected.items():
        assert factors[name] == pytest.approx(factor), name


def test_a_table_that_both_text_towers_share_lies_below_the_higher_one() -> None:
    shared = {**PARAMS, "tokens": PARAMS["title"]["tokens"]}
    factors = named(rate_factors(OptimizerConfig(layer_decay=0.5), shared))
    assert factors["tokens/embedding"] == factors["title/tokens/embedding"] == 0.5**5


def test_a_rate_scales_the_whole_step() -> None:
    whole, _ = trained(OptimizerConfig(), steps=1)
    half, _ = trained(OptimizerConfig(rates=(("^title", 0.5),)), steps=1)
    for name, leaf in named(PARAMS).items():
        factor = 0.5 if name.startswith("title") else 1.0
        np.testing.assert_allclose(half[name] - leaf, factor * (whole[name] - leaf), rtol=1e-4, atol=3e-7)


def test_moments_of_half_the_size_take_nearly_the_same_steps() -> None:
    whole, _ = trained(OptimizerConfig())
    half, state = trained(OptimizerConfig(moments_dtype="bfloat16"))
    for name, leaf in named(PARAMS).items():
        np.testing.assert_allclose(half[name] - leaf, whole[name] - leaf, rtol=0.02)
    kept = {leaf.dtype.name for name, leaf in named(state).items() if "/mu/" in name or "/nu/" in name}
    assert kept == {"bfloat16"}
    with pytest.raises(UserError, match=r"moments_dtype is 'bfloat16', but with optimizer.beta2 0.999"):
        OptimizerConfig(moments_dtype="bfloat16", beta2=0.999)


def test_without_any_of_it_the_state_is_as_it_was() -> None:
    _, state = trained(OptimizerConfig(), steps=1)
    assert not [name for name in named(state) if "inner_states" in name]


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (OptimizerConfig(frozen=("titel",)), ["optimizer.frozen has 'titel'", "adaptation, cross_modal, query, title"]),
        (OptimizerConfig(rates=(("gates/", 2.0),)), ["optimizer.rates has 'gates/'"]),
        (OptimizerConfig(frozen=(".",)), ["optimizer.frozen .", "nothing to learn"]),
    ],
)
def test_patterns_that_cannot_be_meant_are_refused(config: OptimizerConfig, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        check_patterns(config, PARAMS)
    for part in parts:
        assert part in str(error.value)


def test_settings_of_fine_tuning_are_set_stored_and_checked() -> None:
    base = tiny.get_config()
    changed = apply_overrides(
        base,
        ["optimizer.frozen=^query, tokens", "optimizer.rates=title/=0.1,layer_[12]=3e-1", "optimizer.layer_decay=.7"],
    )
    assert changed.optimizer.frozen == ("^query", "tokens")
    assert changed.optimizer.rates == (("title/", 0.1), ("layer_[12]", 0.3))
    assert from_dict(json.loads(to_json(changed))) == changed
    assert apply_overrides(changed, ["optimizer.frozen=", "optimizer.rates=", "optimizer.layer_decay=1"]) == base
    for override, part in (
        ("optimizer.frozen=(", "optimizer.frozen has '(', but that is no regular expression"),
        ("optimizer.rates=title", "expected PATTERN=NUMBER"),
        ("optimizer.rates=title=0", "'title' 0.0, but it must be above 0"),
        ("optimizer.rates==2", "optimizer.rates has ''"),
        ("optimizer.layer_decay=0", "optimizer.layer_decay is 0.0"),
    ):
        with pytest.raises(UserError) as error:
            apply_overrides(base, [override])
        assert part in str(error.value)
