"""Objectives of every kind at once: the same numbers on every mesh and from a checkpoint, with what it remembers."""

from __future__ import annotations

from contextlib import closing
from functools import lru_cache
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from experiments import tiny
from make_jax.config import Experiment, MeshConfig
from make_jax.model import build_model
from make_jax.overrides import apply_overrides
from make_jax.training.checkpoints import Checkpoints
from make_jax.training.mesh import make_mesh, place_batch
from make_jax.training.optimizer import make_optimizer
from make_jax.training.step import Trainer, TrainState, make_trainer

SIZE, STEPS = 16, 4
KINDS = ("qic", "title_image", "qim", "mlm", "mpm", "mpm_r")  # the others are computed as one of these is
Records = list[dict[str, float]]


@lru_cache
def experiment() -> Experiment:
    """The towers have no layers, which other tests have and which take long to compile."""
    layers = [f"model.{tower}.transformer.layers=0" for tower in ("query", "title", "image")]
    off = [f"objectives.{name}=0" for name in ("query_title", "query_image")]
    return apply_overrides(
        tiny.get_config(),
        [
            *(*off, *(f"objectives.{name}=0.5" for name in KINDS)),
            "objectives.hard_negatives=2",
            *("objectives.memory_size=48", "objectives.log_q=0.5", "objectives.matching_share=0.5"),
            *("model.vocab_size=64", "data.product_queries=2", "objectives.patch_negatives=32"),
            *(*layers, "model.fusion.layers=0", "model.image.patch=8"),
        ],
    )


def batch(step: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    found = {}
    for name, width in (("query", 8), ("title", 24)):
        ids = rng.integers(5, 64, (SIZE, width)).astype(np.int32)
        ids[:, width // 2 :] = 0
        hidden = (rng.random(ids.shape) < 0.2) & (ids > 0)
        found |= {f"{name}_ids": ids, f"masked_{name}_ids": np.where(hidden, 4, ids)}
        found |= {f"{name}_targets": np.where(hidden, ids, -1), f"{name}_log_q": rng.normal(size=SIZE)}
    found["product_log_q"] = found.pop("title_log_q")
    return {name: array.astype(np.float32 if "log_q" in name else np.int32) for name, array in found.items()} | {
        "image": rng.integers(0, 255, (SIZE, 1, 32, 32, 3)).astype(np.uint8),
        "has_image": rng.random((SIZE, 1)) > 0.2,
        "query_key": rng.integers(0, 60, SIZE).astype(np.int32),
        "product_key": rng.integers(0, 60, SIZE).astype(np.int32),
        "product_queries": rng.integers(-1, 60, (SIZE, 2)).astype(np.int32),
        "negative_title_ids": rng.integers(5, 64, (SIZE, 2, 24)).astype(np.int32),
        "negative_image": rng.integers(0, 255, (SIZE, 2, 1, 32, 32, 3)).astype(np.uint8),
        "negative_has_image": rng.random((SIZE, 2, 1)) > 0.2,
        "negative_key": rng.integers(-1, 60, (SIZE, 2)).astype(np.int32),
        "negative_queries": rng.integers(-1, 60, (SIZE, 2, 2)).astype(np.int32),
    }


@lru_cache
def compiled(data: int, fsdp: int, tensor: int) -> tuple[Mesh, Trainer]:
    mesh = make_mesh(MeshConfig(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])
    return mesh, make_trainer(build_model(experiment()), make_optimizer(experiment().optimizer, 100), mesh, seed=0)


def advance(sizes: tuple[int, int, int], state: TrainState, steps: range) -> tuple[Records, TrainState]:
    mesh, trainer = compiled(*sizes)
    records = []
    for step in steps:
        state, metrics = trainer.step(state, place_batch(batch(step), mesh))
        records.append({name: float(value) for name, value in metrics.items() if name != "moments"})
    return records, state


@lru_cache
def trained(*sizes: int) -> tuple[Records, TrainState]:
    return advance(sizes, compiled(*sizes)[1].init(), range(STEPS))


@pytest.mark.slow
def test_no_number_depends_on_the_mesh() -> None:
    (expected, state), (found, split) = trained(1, 1, 1), trained(2, 2, 2)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys() >= {*KINDS, "memory_fill", "hard_negative_fill", "mlm_title_accuracy"}
        for name, value in theirs.items():
            assert ours[name] == pytest.approx(value, rel=5e-4, abs=1e-5), name
    np.testing.assert_allclose(split.memory.vectors, state.memory.vectors, atol=2e-4)
    np.testing.assert_array_equal(split.memory.product_key, state.memory.product_key)


def test_the_memory_is_split_as_a_batch_is() -> None:
    records, state = trained(2, 2, 2)
    for leaf in state.memory:
        assert leaf.sharding.spec == PartitionSpec(None, ("data", "fsdp"))
        assert leaf.addressable_shards[0].data.size == leaf.size // 4
    assert state.memory.vectors.shape == (3, SIZE, 32)
    assert [record["memory_fill"] for record in records] == sorted(record["memory_fill"] for record in records)
    assert records[0]["memory_fill"] == 0
    assert records[-1]["memory_fill"] == 1


@pytest.mark.parametrize("sizes", [(2, 2, 2), (1, 1, 1)], ids=["same mesh", "other mesh"])
def test_a_checkpoint_goes_on_with_the_memory(tmp_path: Path, sizes: tuple[int, int, int]) -> None:
    whole, _ = trained(2, 2, 2)
    _, half = advance((2, 2, 2), compiled(2, 2, 2)[1].init(), range(2))
    with closing(Checkpoints(tmp_path, set)) as checkpoints:
        checkpoints.save(2, half)
    _, trainer = compiled(*sizes)
    with closing(Checkpoints(tmp_path, set)) as checkpoints:
        state = checkpoints.restore(2, trainer.shapes, trainer.shardings)
    rest, _ = advance(sizes, state, range(2, STEPS))
    for ours, theirs in zip(rest, whole[2:], strict=True):
        if sizes == (2, 2, 2):
            assert ours == theirs
        assert ours == pytest.approx(theirs, rel=5e-4, abs=1e-5)
