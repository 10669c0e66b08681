"""All objectives at once: the same numbers on every mesh, and after a stop, with what the memory holds."""

from __future__ import annotations

import signal
from functools import lru_cache
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from experiments import tiny
from make_jax.config import OBJECTIVES, Experiment, MeshConfig
from make_jax.model import build_model
from make_jax.overrides import apply_overrides
from make_jax.run import read_metrics
from make_jax.training.loop import train
from make_jax.training.mesh import make_mesh, place_batch
from make_jax.training.optimizer import make_optimizer
from make_jax.training.step import TrainState, make_trainer

SIZE, STEPS = 16, 4


@lru_cache
def experiment(*overrides: str) -> Experiment:
    """Every objective; the towers have no layers, which other tests have and which take long to compile."""
    layers = [f"model.{tower}.transformer.layers=0" for tower in ("query", "title", "image")]
    return apply_overrides(
        tiny.get_config(),
        [
            *(f"objectives.{name}=0.5" for name in OBJECTIVES),
            *("objectives.memory_size=48", "objectives.log_q=0.5", "objectives.matching_share=0.5"),
            *("model.vocab_size=64", "data.product_queries=2", f"training.steps={STEPS}", "training.eval_every=1"),
            *(*layers, "model.fusion.layers=0", "model.image.patch=8", "objectives.patch_negatives=32"),
            *overrides,
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
    }


class Batches:
    """Random batches that depend on their step only."""

    set_aside = 0

    def __init__(self, start: int) -> None:
        self.step = start

    def __next__(self) -> dict[str, np.ndarray]:
        self.step += 1
        return batch(self.step - 1)

    def close(self) -> None:
        pass


@lru_cache
def trained(data: int, fsdp: int, tensor: int) -> tuple[list[dict[str, float]], TrainState]:
    mesh = make_mesh(MeshConfig(data, fsdp, tensor), jax.devices()[: data * fsdp * tensor])
    trainer = make_trainer(build_model(experiment()), make_optimizer(experiment().optimizer, 100), mesh, seed=0)
    state, records = trainer.init(), []
    for step in range(STEPS):
        state, metrics = trainer.step(state, place_batch(batch(step), mesh))
        records.append({name: float(value) for name, value in metrics.items()})
    return records, state


def test_no_number_depends_on_the_mesh() -> None:
    (expected, state), (found, split) = trained(1, 1, 1), trained(2, 2, 2)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.keys() == theirs.keys() >= {*OBJECTIVES, "memory_fill", "mlm_title_accuracy"}
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


class StopAfter:
    """An evaluation that asks this process to stop once it was called after so many steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def __call__(self, params: object) -> dict[str, float]:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGTERM)
        return {}


def test_a_stopped_run_goes_on_exactly_with_its_memory(tmp_path: Path) -> None:
    off = [f"objectives.{name}=0" for name in OBJECTIVES if name not in ("qic", "qim2")]

    def run(folder: str, stop: int) -> list[float]:
        train(experiment(*off, "mesh.data=4", "mesh.fsdp=2"), tmp_path / folder, Batches, StopAfter(stop))
        return [record["loss"] for record in read_metrics(tmp_path / folder / "metrics.jsonl")]

    whole = run("whole", 0)
    assert len(run("cut", 2)) == 2
    assert run("cut", 0) == whole
