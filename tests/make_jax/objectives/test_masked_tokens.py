"""MLM over hidden tokens only, against a loop over every token."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.objectives.masked_tokens import hidden_tokens, room, take_states, token_loss

SHARE, VOCAB, WIDTH = 0.15, 11, 3


def loop_loss(states: np.ndarray, table: np.ndarray, targets: np.ndarray) -> tuple[float, float]:
    losses, right = [], []
    for row, column in np.argwhere(targets >= 0):
        logits = table.astype(np.float64) @ states[row, column]
        losses.append(np.log(np.exp(logits).sum()) - logits[targets[row, column]])
        right.append(logits.argmax() == targets[row, column])
    return (float(np.mean(losses)), float(np.mean(right))) if losses else (0.0, 0.0)


@settings(deadline=None, max_examples=40)
@given(rows=st.sampled_from([1, 6, 48]), length=st.sampled_from([3, 16]), seed=st.integers(0, 2**31))
def test_only_hidden_tokens_count_and_all_of_them(rows: int, length: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(rows, length, WIDTH)).astype(np.float32)
    table = rng.normal(size=(VOCAB, WIDTH)).astype(np.float32)
    targets = np.where(rng.random((rows, length)) < 0.08, rng.integers(0, VOCAB, (rows, length)), -1).astype(np.int32)

    @jax.jit
    def found(states: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        places, wanted = hidden_tokens(targets, SHARE)
        return token_loss(take_states(states, places) @ table.T, wanted)

    np.testing.assert_allclose(found(states, targets), loop_loss(states, table, targets), rtol=1e-4, atol=1e-6)


def test_there_is_room_for_what_is_expected_and_more_is_left_out() -> None:
    assert room(16, 16, 0.15) == 74
    assert room(2, 3, 0.9) == 6  # never more than there is
    full = jnp.ones((16, 16), jnp.int32)
    places, wanted = hidden_tokens(full, 0.15)
    assert places.shape == wanted.shape == (1, 74)
    assert (np.asarray(wanted) == 1).all()
    assert hidden_tokens(jnp.ones((48, 16), jnp.int32), 0.15)[0].shape == (3, 74)


def test_nothing_to_predict_is_no_loss_and_no_gradient() -> None:
    nothing = jnp.full((2, 3), -1)
    value, gradient = jax.value_and_grad(lambda x: token_loss(x, nothing)[0])(jnp.ones((2, 3, VOCAB)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


def test_a_right_guess_costs_little() -> None:
    logits, targets = 20 * jnp.eye(VOCAB)[None, :4], jnp.asarray([[0, 1, 5, -1]])
    loss, accuracy = token_loss(logits, targets)
    assert float(accuracy) == pytest.approx(2 / 3)
    assert float(loss) == pytest.approx(20 / 3, abs=0.01)
