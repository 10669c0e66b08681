"""Padding is whatever id the tokenizer says: nothing changes with it, and no other id is taken for it."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from make_jax.config import Experiment, FusionConfig, ImageConfig, ModelConfig, TextConfig, TransformerConfig
from make_jax.errors import UserError
from make_jax.model import RetrievalModel, build_model

SMALL = TransformerConfig(layers=1, width=8, heads=1)
VOCAB_SIZE = 20
LAST = VOCAB_SIZE - 1


def model(pad_id: int) -> RetrievalModel:
    config = ModelConfig(
        vocab_size=VOCAB_SIZE,
        pad_id=pad_id,
        embedding=4,
        query=TextConfig(max_tokens=6, transformer=SMALL),
        title=TextConfig(max_tokens=6, transformer=SMALL),
        image=ImageConfig(height=8, width=8, patch=8, stem="patch", transformer=SMALL),
        fusion=FusionConfig(layers=0),
    )
    return build_model(Experiment("test", model=config))


@pytest.fixture(scope="module")
def params() -> Any:
    return jax.jit(model(1).init)(jax.random.key(0))


@pytest.mark.parametrize("pad_id", [1, LAST])
def test_padding_has_no_influence_and_every_other_id_has(pad_id: int, params: Any) -> None:
    encode = jax.jit(model(pad_id).encode_query)
    long = np.full((2, 6), pad_id, np.int32)
    long[:, :3] = [[0, 7, LAST - pad_id], [LAST - pad_id, 9, 0]]
    shown = np.asarray(encode(params, long))
    np.testing.assert_allclose(encode(params, long[:, :3]), shown, atol=1e-6)
    for column in range(3):
        hidden = long.copy()
        hidden[:, column] = pad_id
        assert (np.abs(np.asarray(encode(params, hidden)) - shown).max(axis=1) > 1e-3).all()


def test_a_title_of_padding_is_no_title(params: Any) -> None:
    titles = np.array([[1] * 6, [0] * 6], np.int32)
    image, none = np.zeros((2, 1, 8, 8, 3), np.uint8), np.zeros((2, 1), bool)
    found = jax.jit(model(1).encode_product)(params, titles, image, none)
    assert found.weights.tolist() == [[0, 0], [1, 0]]
    assert not np.asarray(found.vector[0]).any()


def test_clear_errors() -> None:
    with pytest.raises(UserError, match=r"model\.pad_id is -1"):
        ModelConfig(pad_id=-1)
    with pytest.raises(UserError, match=r"model\.pad_id is 20, but the ids of model\.vocab_size 20 end before it"):
        ModelConfig(vocab_size=20, pad_id=20)
    assert ModelConfig(pad_id=20).pad_id == 20
