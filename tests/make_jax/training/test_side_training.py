"""Tables of ids and categories in training: the same on any mesh, never decayed, at a rate of their own, frozen."""

from __future__ import annotations

import math
from functools import lru_cache

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from test_sharding import batch

from experiments import tiny
from make_jax.config import Experiment, MeshConfig
from make_jax.errors import UserError
from make_jax.model import build_model
from make_jax.overrides import apply_overrides
from make_jax.training.mesh import make_mesh, path_name, place_batch
from make_jax.training.optimizer import check_patterns, decayed, frozen, make_optimizer, rate_factors
from make_jax.training.step import TrainState, make_trainer

BUCKETS, STEPS = 32, 3
# Nothing else is of interest here, and less is compiled sooner.
SMALL = ["model.query.transformer.layers=0", "model.title.transformer.layers=0"]
SMALL += ["model.modalities=title", "objectives.query_image=0"]


@lru_cache
def experiment(*overrides: str) -> Experiment:
    side = ["model.side.columns=category,product_id", f"model.side.buckets={BUCKETS}", "optimizer.weight_decay=0.9"]
    return apply_overrides(tiny.get_config(), ["model.vocab_size=64", *SMALL, *side, *overrides])


def with_ids(step: int) -> dict[str, np.ndarray]:
    """Values in the lower half of the buckets only."""
    shown = batch(step)
    ids = np.random.default_rng(step).integers(-1, BUCKETS // 2, (len(shown["query_key"]), 2, 3)).astype(np.int32)
    return shown | {"side_ids": ids}


def trained(sizes: tuple[int, int, int], config: Experiment) -> tuple[list[float], TrainState]:
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    trainer = make_trainer(build_model(config), make_optimizer(config.optimizer, 100), mesh, seed=0)
    state, losses = trainer.init(), []
    for step in range(STEPS):
        state, metrics = trainer.step(state, place_batch(with_ids(step), mesh))
        losses.append(float(metrics["loss"]))
    return losses, state


def tables(state: TrainState) -> dict[str, np.ndarray]:
    return {name: np.asarray(table["embedding"]) for name, table in state.params["side"].items()}


def test_the_same_on_every_mesh_and_zero_where_nothing_was_shown() -> None:
    losses, state = trained((1, 1, 1), experiment())
    for name, table in tables(state).items():
        assert table[: BUCKETS // 2].any(axis=1).all(), name
        assert not table[BUCKETS // 2 :].any(), name  # to the bit, for all the decay and momentum
    found, other = trained((2, 2, 2), experiment())
    np.testing.assert_allclose(found, losses, rtol=2e-5)
    for name, table in tables(other).items():
        np.testing.assert_allclose(table, tables(state)[name], atol=2e-3, err_msg=name)
    split = [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(other) if "/side/" in path_name(path)]
    assert len(split) == 6  # two tables and their moments
    for leaf in split:
        assert leaf.sharding.spec == PartitionSpec("tensor", "fsdp")
        assert leaf.addressable_shards[0].data.size == leaf.size // 4


def test_tables_are_not_decayed_and_have_a_rate_of_their_own() -> None:
    config = experiment("optimizer.rates=^side/=5,side=2")
    params = jax.eval_shape(build_model(config).init, jax.random.key(0))
    check_patterns(config.optimizer, params)
    for tree, wanted in ((decayed(params), False), (rate_factors(config.optimizer, params), 5.0)):
        found = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
        assert {name: leaf for name, leaf in found.items() if name.startswith("side/")} == {
            "side/category/embedding": wanted,
            "side/product_id/embedding": wanted,
        }
    layered = rate_factors(experiment("optimizer.layer_decay=0.5").optimizer, params)
    assert layered["side"]["category"]["embedding"] == 1.0  # they come after all layers


def test_tables_can_be_frozen_where_there_are_any() -> None:
    chosen = experiment("optimizer.frozen=^side/category")
    held = frozen(chosen.optimizer, jax.eval_shape(build_model(chosen).init, jax.random.key(0)))
    assert held["side"] == {"category": {"embedding": True}, "product_id": {"embedding": False}}
    plain = experiment("model.side.columns=", "optimizer.frozen=^side/")
    with pytest.raises(UserError, match=r"optimizer.frozen has '\^side/', but no parameter's path has that"):
        check_patterns(plain.optimizer, jax.eval_shape(build_model(plain).init, jax.random.key(0)))
