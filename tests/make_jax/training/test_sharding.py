"""The same numbers on one device and on eight, however the mesh is cut."""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from experiments import tiny
from make_jax.config import Experiment, MeshConfig
from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.training.mesh import make_mesh, parameter_spec, path_name, place_batch, state_shardings
from make_jax.training.optimizer import decayed, make_optimizer, make_schedule
from make_jax.training.step import make_trainer

STEPS = 4


@lru_cache
def experiment() -> Experiment:
    config = tiny.get_config()
    return dataclasses.replace(config, model=dataclasses.replace(config.model, vocab_size=64))


def batch(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    size = experiment().training.batch_size
    has_image = rng.random(size) > 0.2
    title_ids = rng.integers(4, 64, (size, 24)).astype(np.int32)
    title_ids[:, 15:] = 0
    title_ids[3] = 0
    has_image[3] = True
    return {
        "query_ids": rng.integers(4, 64, (size, 8)).astype(np.int32),
        "title_ids": title_ids,
        "image": rng.integers(0, 255, (size, 1, 32, 32, 3)).astype(np.uint8),
        "has_image": has_image[:, None],
        "query_key": rng.integers(0, 12, size).astype(np.int32),
        "product_key": rng.integers(0, 12, size).astype(np.int32),
        "product_queries": rng.integers(-1, 12, (size, 4)).astype(np.int32),
    }


@lru_cache
def losses_and_params(data: int, fsdp: int, tensor: int) -> tuple[list[float], dict[str, np.ndarray], list[float]]:
    mesh = make_mesh(MeshConfig(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])
    trainer = make_trainer(build_model(experiment()), make_optimizer(experiment().optimizer, 100), mesh, seed=0)
    state, losses, norms = trainer.init(), [], []
    for step in range(STEPS):
        state, metrics = trainer.step(state, place_batch(batch(step), mesh))
        losses.append(float(metrics["loss"]))
        norms.append(float(metrics["gradient_norm"]))
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state.params))
    return losses, {path_name(path): leaf for path, leaf in leaves}, norms


@pytest.mark.parametrize("sizes", [(8, 1, 1), (1, 8, 1), (2, 2, 2), (2, 1, 4)])
def test_losses_and_gradients_do_not_depend_on_the_mesh(sizes: tuple[int, int, int]) -> None:
    assert len(jax.devices()) == 8
    expected, params, norms = losses_and_params(1, 1, 1)
    found, found_params, found_norms = losses_and_params(*sizes)
    np.testing.assert_allclose(found, expected, rtol=2e-5)
    np.testing.assert_allclose(found_norms, norms, rtol=2e-4)
    # Adam turns a tiny gradient's sign into a full step, so parameters are compared as a whole, not one by one.
    for name, leaf in params.items():
        drift = np.linalg.norm(found_params[name] - leaf)
        assert drift <= 2e-3 * np.linalg.norm(leaf) + 2e-3, name
    assert expected[0] != expected[-1]


@pytest.mark.parametrize("kind", ["vector_gate", "joint", "cross_attention"])
def test_every_sort_of_fusion_is_the_same_on_any_mesh(kind: str) -> None:
    base = experiment()
    image = dataclasses.replace(base.model.image, max_images=2)
    fusion = dataclasses.replace(base.model.fusion, kind=kind, modality_dropout=0.0)
    model = build_model(dataclasses.replace(base, model=dataclasses.replace(base.model, image=image, fusion=fusion)))
    shown = batch(0)
    shown["image"], shown["has_image"] = (
        np.concatenate([shown[name], shown[name][::-1]], axis=1) for name in ("image", "has_image")
    )
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    params = jax.tree.map(lambda leaf: (rng.normal(size=leaf.shape) / 8).astype(np.float32), shapes)

    def encoded(sizes: tuple[int, int, int]) -> list[np.ndarray]:
        mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
        placed = place_batch(shown, mesh)
        given = jax.device_put(params, state_shardings(params, mesh))
        found = jax.jit(model.encode_product)(given, placed["title_ids"], placed["image"], placed["has_image"])
        return jax.device_get(list(found))

    for one, many in zip(encoded((1, 1, 1)), encoded((2, 2, 2)), strict=True):
        np.testing.assert_allclose(one, many, atol=2e-5)


def test_parameters_are_really_split() -> None:
    mesh = make_mesh(MeshConfig(2, 2, 2), jax.devices())
    trainer = make_trainer(build_model(experiment()), make_optimizer(experiment().optimizer, 100), mesh, seed=0)
    state = trainer.init()
    up = state.params["title"]["transformer"]["layer_0"]["up"]["kernel"]
    assert up.sharding.spec == PartitionSpec("fsdp", "tensor")
    assert up.addressable_shards[0].data.size == up.size // 4
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.shape == up.shape]
    assert moments
    assert all(leaf.addressable_shards[0].data.size == leaf.size // 4 for leaf in moments)


def test_what_does_not_divide_is_replicated_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    mesh = make_mesh(MeshConfig(1, 4, 2), jax.devices())
    with caplog.at_level("INFO", "make_jax"):
        spec = parameter_spec("title/transformer/layer_0/up/kernel", (30, 64), mesh)
    assert spec == PartitionSpec(None, "tensor")
    assert "30 is not divisible by fsdp=4" in caplog.text


def test_a_mesh_that_does_not_fit_the_devices_is_refused() -> None:
    with pytest.raises(UserError, match=r"3.*8 devices"):
        make_mesh(MeshConfig(data=3), jax.devices())


def test_only_kernels_are_decayed() -> None:
    params = jax.eval_shape(build_model(experiment()).init, jax.random.key(0))
    flags = {path_name(path): flag for path, flag in jax.tree_util.tree_leaves_with_path(decayed(params))}
    assert flags["title/transformer/layer_0/up/kernel"]
    for name, flag in flags.items():
        if any(part in name for part in ("norm", "bias", "tokens", "positions", "scale_logit")):
            assert not flag, name


def test_schedule_warms_up_then_falls() -> None:
    schedule = make_schedule(experiment().optimizer, 100)
    rates = [float(schedule(step)) for step in range(101)]
    peak = experiment().optimizer.learning_rate
    assert rates[0] < peak / 2
    assert max(rates) == pytest.approx(peak)
    assert int(np.argmax(rates)) == 10
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(peak * experiment().optimizer.final_share)
