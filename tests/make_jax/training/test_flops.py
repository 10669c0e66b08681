"""FLOPs that are counted are those that matrix products take."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from experiments import tiny
from make_jax.model import build_model
from make_jax.planning.batches import train_shapes
from make_jax.training.flops import matmul_flops, model_flops

X, W = jax.ShapeDtypeStruct((5, 7), np.float32), jax.ShapeDtypeStruct((7, 7), np.float32)
ONE = 2 * 5 * 7 * 7


def test_products_count_wherever_they_are() -> None:
    assert matmul_flops(lambda x, w: x @ w, X, W) == ONE
    assert matmul_flops(jax.jit(lambda x, w: x @ w @ w), X, W) == 2 * ONE
    assert matmul_flops(lambda x, w: jax.lax.scan(lambda c, _: (c @ w, None), x, length=6), X, W) == 6 * ONE
    assert matmul_flops(lambda x, w: jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x), X, W) == 2 * ONE
    assert matmul_flops(lambda x, w: jnp.einsum("ij,jk->i", x, w), X, W) >= 2 * 5 * 7
    batched = jax.ShapeDtypeStruct((3, 5, 7), np.float32)
    assert matmul_flops(lambda x, w: x @ w, batched, W) == 3 * ONE


def test_the_backward_pass_is_two_more_and_recomputing_one() -> None:
    def loss(x: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(x @ w))

    assert matmul_flops(jax.value_and_grad(loss, argnums=(0, 1)), X, W) == 3 * ONE
    assert matmul_flops(jax.value_and_grad(jax.checkpoint(loss), argnums=(0, 1)), X, W) == 4 * ONE


def test_convolutions_and_shards_count_whole() -> None:
    image, kernel = jax.ShapeDtypeStruct((2, 8, 8, 3), np.float32), jax.ShapeDtypeStruct((4, 4, 3, 6), np.float32)

    def convolve(x: jax.Array, k: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, k, (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    assert matmul_flops(convolve, image, kernel) == 2 * (2 * 2 * 2 * 6) * (4 * 4 * 3)
    mesh = jax.make_mesh((8,), ("a",), axis_types=(AxisType.Auto,), devices=jax.devices())
    rows = jax.ShapeDtypeStruct((40, 7), np.float32)
    split = jax.shard_map(
        lambda x, w: x @ w, mesh=mesh, in_specs=(PartitionSpec("a"), PartitionSpec()), out_specs=PartitionSpec("a")
    )
    assert matmul_flops(split, rows, W) == 8 * ONE


def test_a_model_takes_six_flops_for_each_parameter_of_its_layers_and_row() -> None:
    config = tiny.get_config()
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=64))
    flops = model_flops(build_model(config), train_shapes(config))
    assert flops % 3 == 0
    # 12 D² parameters a layer; 16 rows of 8, 24, 4 and 24 + 4 tokens and patches.
    layers = 6 * (12 * 32**2) * 16 * (8 + 24 + 4 + 28)
    assert layers < flops < 2 * layers
