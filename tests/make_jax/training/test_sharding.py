"""The same numbers on one device and on eight, however the mesh is cut."""

from __future__ import annotations

import dataclasses
import math
from functools import lru_cache

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from experiments import tiny
from make_jax.config import Experiment, MeshConfig
from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.overrides import apply_overrides
from make_jax.planning.collectives import read_collectives
from make_jax.planning.compiling import readable
from make_jax.training.loop import trainer_for
from make_jax.training.mesh import (
    batch_sharding,
    check_rules,
    make_mesh,
    parameter_spec,
    path_name,
    place_batch,
    state_shardings,
)
from make_jax.training.optimizer import decayed, make_optimizer, make_schedule
from make_jax.training.policy import new_watch
from make_jax.training.step import TrainState, make_trainer

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
    trainer = trainer_for(experiment(), mesh)
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
    up = state.params["title"]["transformer"]["layers"]["up"]["kernel"]
    assert up.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    assert up.addressable_shards[0].data.size == up.size // 4
    moments = [leaf for leaf in jax.tree.leaves(state.optimizer) if leaf.shape == up.shape]
    assert moments
    assert all(leaf.addressable_shards[0].data.size == leaf.size // 4 for leaf in moments)


def test_what_does_not_divide_is_replicated_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    mesh = make_mesh(MeshConfig(1, 4, 2), jax.devices())
    layers = {"up": {"kernel": np.zeros((2, 30, 64))}, "norm": {"scale": np.zeros((2, 30))}}
    params = {"title": {"transformer": {"layers": layers}}}
    with caplog.at_level("INFO", "make_jax"):
        shardings = state_shardings(params, mesh)
    assert shardings["title"]["transformer"]["layers"]["up"]["kernel"].spec == PartitionSpec(None, None, "tensor")
    (split, summary) = caplog.messages
    assert split == "title/transformer/layers/up/kernel (2, 30, 64): 30 is not divisible by fsdp=4, replicated"
    assert "the largest title/transformer/layers/norm/scale" in summary


def test_rules_of_the_config_come_before_the_defaults() -> None:
    mesh = make_mesh(MeshConfig(1, 4, 2), jax.devices())
    rules = ((r"title/.*up/kernel$", "- fsdp+tensor"), (r"norm/scale$", "tensor"))
    path = "title/transformer/layers/up/kernel"
    assert parameter_spec(path, (32, 64), mesh, rules)[0] == PartitionSpec(None, ("fsdp", "tensor"))
    # A rule is of the last dimensions: kernels of layers that are stacked have one more before them.
    assert parameter_spec(path, (3, 32, 64), mesh, rules)[0] == PartitionSpec(None, None, ("fsdp", "tensor"))
    assert parameter_spec("image/" + path[6:], (32, 64), mesh, rules)[0] == PartitionSpec("fsdp", "tensor")
    assert parameter_spec("title/transformer/norm/scale", (32,), mesh, rules)[0] == PartitionSpec("tensor")
    assert parameter_spec("scale_logit", (), mesh, rules)[0] == PartitionSpec()
    spec, whole = parameter_spec(path, (32, 12), mesh, rules)
    assert spec == PartitionSpec(None, None)
    assert whole[0][2:] == (12, "fsdp+tensor", 8)


def test_rules_see_paths_of_parameters_in_all_of_the_state() -> None:
    mesh = make_mesh(MeshConfig(1, 4, 2), jax.devices())
    params = {
        "title": {"tokens": {"embedding": np.zeros((8, 8))}},
        "query": {"tokens": {"embedding": np.zeros((8, 8))}},
    }
    moments = optax.adam(1e-3).init(params)
    state = TrainState(np.zeros((), np.int32), params, moments, (), new_watch(), params)
    shardings = state_shardings(state, mesh, ((r"^title/tokens/embedding$", "- tensor"),))
    ruled, other = PartitionSpec(None, "tensor"), PartitionSpec("tensor", "fsdp")
    for found in (shardings.params, shardings.average, shardings.optimizer[0].mu, shardings.optimizer[0].nu):
        assert found["title"]["tokens"]["embedding"].spec == ruled
        assert found["query"]["tokens"]["embedding"].spec == other
    assert shardings.watch.recent.spec == shardings.optimizer[0].count.spec == PartitionSpec()


def test_rules_that_fit_no_parameter_are_refused() -> None:
    params = {"title": {"up": {"kernel": np.zeros((4, 4)), "bias": np.zeros(4)}}}
    check_rules(((r"up/kernel", "fsdp tensor"), ("bias", "tensor")), params)
    with pytest.raises(UserError, match=r"'nothing'.*paths begin with title"):
        check_rules((("nothing", "fsdp"),), params)
    with pytest.raises(UserError, match=r"2 dimensions, but title/up/bias has 1"):
        check_rules((("up/", "fsdp tensor"),), params)
    for axes in ("fsdp batch", "fsdp fsdp", "tensor+tensor"):
        with pytest.raises(UserError, match=r"mesh\.rules"):
            MeshConfig(rules=(("up", axes),))
    with pytest.raises(UserError, match="no regular expression"):
        MeshConfig(rules=(("(", "fsdp"),))


def test_rules_are_set_from_the_command_line() -> None:
    found = apply_overrides(experiment(), ["mesh.rules=up/kernel$=- tensor, side/=tensor"])
    assert found.mesh.rules == (("up/kernel$", "- tensor"), ("side/", "tensor"))
    assert apply_overrides(found, ["mesh.rules="]).mesh.rules == ()
    with pytest.raises(UserError, match="PATTERN=TEXT"):
        apply_overrides(experiment(), ["mesh.rules=up"])


def test_fsdp_moves_parameters_and_never_activations() -> None:
    mesh = make_mesh(MeshConfig(1, 8, 1), jax.devices())
    trainer = trainer_for(experiment(), mesh)
    split = batch_sharding(mesh)
    shapes = {name: jax.ShapeDtypeStruct(rows.shape, rows.dtype, sharding=split) for name, rows in batch(0).items()}
    text = trainer.step.lower(trainer.shapes, shapes).compile().as_text()
    sources = [readable(c.source) for c in read_collectives(text, 8) if c.kind == "all-gather"]
    assert "parameter title/transformer/layers/up/kernel" in sources
    assert not [source for source in sources if "transformer" in source and not source.startswith("parameter ")]


def test_a_mesh_that_does_not_fit_the_devices_is_refused() -> None:
    with pytest.raises(UserError, match=r"3.*8 devices"):
        make_mesh(MeshConfig(data=3), jax.devices())


def test_only_kernels_are_decayed() -> None:
    params = jax.eval_shape(build_model(experiment()).init, jax.random.key(0))
    flags = {path_name(path): flag for path, flag in jax.tree_util.tree_leaves_with_path(decayed(params))}
    assert flags["title/transformer/layers/up/kernel"]
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
