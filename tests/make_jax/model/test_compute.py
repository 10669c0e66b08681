"""How a model is computed does not change what it computes."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from make_jax.config import (
    ComputeConfig,
    Experiment,
    FusionConfig,
    ImageConfig,
    ModelConfig,
    ObjectivesConfig,
    TextConfig,
    TrainingConfig,
    TransformerConfig,
)
from make_jax.errors import UserError
from make_jax.model import build_model

SIZE = 6
TEXT = TransformerConfig(layers=2, width=16, heads=2, dropout=0.1)


# What is computed in layers of its own, or shows a layer's input something else.
ALL, QIC = ObjectivesConfig(mlm=0.5, mpm=0.5, qim=0.5), ObjectivesConfig()


def experiment(
    compute: ComputeConfig, kind: Any = "modal_adaptation", objectives: ObjectivesConfig = QIC
) -> Experiment:
    return Experiment(
        "computed",
        model=ModelConfig(
            vocab_size=30,
            embedding=8,
            query=TextConfig(max_tokens=5, transformer=TEXT),
            title=TextConfig(max_tokens=6, transformer=TEXT),
            image=ImageConfig(height=16, width=16, patch=8, transformer=TEXT),
            fusion=FusionConfig(kind=kind, layers=2),
        ),
        objectives=objectives,
        training=TrainingConfig(batch_size=SIZE),
        compute=compute,
    )


def batch() -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    queries, titles = rng.integers(0, 30, (SIZE, 5)), rng.integers(0, 30, (SIZE, 6))
    numbers = np.arange(SIZE)
    found = {
        "query_ids": queries,
        "title_ids": titles,
        "masked_query_ids": queries,
        "masked_title_ids": titles,
        "query_targets": np.where(rng.random(queries.shape) < 0.3, queries, -1),
        "title_targets": np.where(rng.random(titles.shape) < 0.3, titles, -1),
        "image": rng.integers(0, 256, (SIZE, 1, 16, 16, 3)).astype(np.uint8),
        "has_image": numbers[:, None] != 2,
        "query_key": numbers,
        "product_key": numbers,
        "product_queries": numbers[:, None],
    }
    return {name: jnp.asarray(array) for name, array in found.items()}


def computed(
    compute: ComputeConfig, kind: Any = "modal_adaptation", objectives: ObjectivesConfig = QIC
) -> tuple[float, Any]:
    """The loss and its gradients, of the same parameters however they are computed."""
    model = build_model(experiment(compute, kind, objectives))
    params = build_model(experiment(ComputeConfig(), kind, objectives)).init(jax.random.key(0))
    given = batch()

    @jax.jit
    def gradients(params: Any) -> tuple[jax.Array, Any]:
        (loss, _), found = jax.value_and_grad(model.losses, has_aux=True)(params, (), given, jax.random.key(1))
        return loss, found

    loss, found = gradients(params)
    return float(loss), found


def assert_near(one: jax.Array, two: jax.Array) -> None:
    """Sums in another order are off by as much for their small entries as for their large ones."""
    assert np.linalg.norm(one - two) <= 1e-5 * np.linalg.norm(one) + 1e-6


@pytest.mark.parametrize(
    ("kind", "objectives", "ways"),
    [
        ("modal_adaptation", ALL, [ComputeConfig(unroll=0, remat="dots")]),
        ("cross_attention", QIC, [ComputeConfig(unroll=0), ComputeConfig(remat="full")]),
    ],
)
def test_loops_and_computing_again_change_nothing(
    kind: str, objectives: ObjectivesConfig, ways: list[ComputeConfig]
) -> None:
    loss, gradients = computed(ComputeConfig(), kind, objectives)
    for compute in ways:
        other, found = computed(compute, kind, objectives)
        assert other == pytest.approx(loss, rel=1e-6)
        jax.tree.map(assert_near, gradients, found)


def test_half_precision_is_near_and_leaves_parameters_vectors_and_losses_whole() -> None:
    loss, gradients = computed(ComputeConfig())
    other, found = computed(ComputeConfig(dtype="bfloat16"))
    assert other == pytest.approx(loss, rel=0.02)
    assert other != loss
    assert {leaf.dtype.name for leaf in jax.tree.leaves(found)} == {"float32"}
    together = [np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (gradients, found)]
    assert np.corrcoef(*together)[0, 1] > 0.99

    model, given = build_model(experiment(ComputeConfig(dtype="bfloat16"))), batch()
    params = model.init(jax.random.key(0))
    product = jax.eval_shape(model.encode_product, params, given["title_ids"], given["image"], given["has_image"])
    assert {part.dtype.name for part in product} == {"float32"}
    assert jax.eval_shape(model.encode_query, params, given["query_ids"]).dtype == "float32"
    text = jax.jit(model.encode_query).lower(params, given["query_ids"]).as_text()
    assert "dot_general" in text
    assert "tensor<30x16xbf16>" in text  # what the towers multiply is half as wide; the projection is not


def test_a_loop_compiles_once_for_all_layers() -> None:
    def program(layers: int, unroll: int) -> int:
        base = experiment(ComputeConfig(unroll=unroll))
        deep = dataclasses.replace(TEXT, layers=layers)
        model = dataclasses.replace(base.model, query=TextConfig(max_tokens=5, transformer=deep))
        built = build_model(dataclasses.replace(base, model=model))
        params = jax.eval_shape(built.init, jax.random.key(0))
        ids = jax.ShapeDtypeStruct((2, 5), np.int32)
        return len(jax.jit(built.encode_query).lower(params, ids).as_text())

    assert program(12, 0) < 1.05 * program(3, 0)
    assert program(12, 12) > 1.5 * program(3, 12)


def test_fused_attention_wants_half_precision() -> None:
    with pytest.raises(UserError, match=r"compute.attention is 'cudnn', but compute.dtype is 'float32'"):
        ComputeConfig(attention="cudnn")
