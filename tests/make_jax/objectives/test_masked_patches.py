"""MPM and MPM_R: which patches are hidden, and both losses against loops."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.objectives.masked_patches import (
    TEMPERATURE,
    Hidden,
    contrast_loss,
    hidden_mask,
    hide_patches,
    regression_loss,
    take_patches,
)

PICTURES, PATCHES = 6, 10


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def some_hidden(rng: np.random.Generator, present: np.ndarray) -> Hidden:
    return hide_patches(jax.random.key(int(rng.integers(1000))), jnp.asarray(present), 0.4)


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**31), share=st.sampled_from([0.01, 0.4, 0.75, 1.0]), missing=st.floats(0, 1))
def test_every_picture_loses_its_share_and_keeps_something(seed: int, share: float, missing: float) -> None:
    present = np.random.default_rng(seed).random((PICTURES, PATCHES)) >= missing
    hidden = jax.jit(hide_patches, static_argnums=2)(jax.random.key(seed), present, share)
    mask = np.asarray(hidden_mask(hidden, PATCHES))
    assert not (mask & ~present).any()
    for row in range(PICTURES):
        count = int(present[row].sum())
        wanted = 0 if count < 2 else min(max(1, int(np.round(np.float32(share) * count))), count - 1)
        assert mask[row].sum() == wanted
        used = np.asarray(hidden.places[row])[np.asarray(hidden.used[row])]
        assert sorted(used.tolist()) == np.flatnonzero(mask[row]).tolist()


def test_every_patch_is_hidden_as_often() -> None:
    hidden = hide_patches(jax.random.key(0), jnp.ones((4000, PATCHES), bool), 0.4)
    shares = np.asarray(hidden_mask(hidden, PATCHES)).mean(axis=0)
    np.testing.assert_allclose(shares, 0.4, atol=0.03)


def test_regression_equals_the_formula_and_standardises_each_patch() -> None:
    rng = np.random.default_rng(0)
    truth, guess = 50 + 9 * rng.normal(size=(3, 2, 7)), rng.normal(size=(3, 2, 7))
    used = np.array([[True, False], [True, True], [False, False]])
    total = [
        np.mean((guess[i, j] - (truth[i, j] - truth[i, j].mean()) / truth[i, j].std()) ** 2)
        for i, j in np.argwhere(used)
    ]
    np.testing.assert_allclose(regression_loss(guess, truth, used), np.mean(total), rtol=1e-4)
    value, gradient = jax.value_and_grad(regression_loss)(jnp.ones((1, 1, 4)), jnp.ones((1, 1, 4)), jnp.ones((1, 1)))
    assert float(value) == 1  # a patch of one colour has nothing but its mean
    assert np.isfinite(gradient).all()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), missing=st.floats(0, 0.9))
def test_contrast_equals_the_formula(seed: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    present = rng.random((PICTURES, PATCHES)) >= missing
    features = unit(rng, PICTURES, PATCHES, 4)
    features[:, :3] = features[0, 0]  # a background that many patches share
    hidden = some_hidden(rng, present)
    predicted = unit(rng, *hidden.places.shape, 4)
    key = jax.random.key(seed)
    drawn = np.asarray(jax.random.randint(key, (20,), 0, PICTURES * PATCHES))
    losses, right = [], []
    for row, slot in np.argwhere(np.asarray(hidden.used)):
        z, own = predicted[row, slot].astype(np.float64), features[row, hidden.places[row, slot]]
        others = [features[k // PATCHES, k % PATCHES] for k in drawn if present[k // PATCHES, k % PATCHES]]
        scores = np.array([z @ other for other in others if not np.allclose(other, own, atol=1e-3)]) / TEMPERATURE
        wanted = z @ own / TEMPERATURE
        losses.append(np.log(np.exp(wanted) + np.exp(scores).sum()) - wanted)
        right.append(wanted > scores.max(initial=-np.inf))
    loss, accuracy = jax.jit(contrast_loss, static_argnums=5)(key, predicted, features, present, hidden, 20)
    np.testing.assert_allclose(loss, np.mean(losses) if losses else 0, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(accuracy, np.mean(right) if right else 0, rtol=1e-6)


def test_the_true_features_are_given_not_learnt() -> None:
    rng = np.random.default_rng(1)
    present = np.ones((PICTURES, PATCHES), bool)
    features, hidden = unit(rng, PICTURES, PATCHES, 4), some_hidden(rng, present)
    predicted = unit(rng, *hidden.places.shape, 4)

    def loss(predicted: jax.Array, features: jax.Array) -> jax.Array:
        return contrast_loss(jax.random.key(0), predicted, features, present, hidden, 20)[0]

    by_prediction, by_feature = jax.grad(loss, argnums=(0, 1))(jnp.asarray(predicted), jnp.asarray(features))
    np.testing.assert_array_equal(by_feature, 0)
    assert np.abs(by_prediction).max() > 1e-3
    np.testing.assert_array_equal(take_patches(features, hidden)[2, 1], features[2, hidden.places[2, 1]])
