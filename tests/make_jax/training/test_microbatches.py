"""GradCache: a batch in parts has the loss and the gradients of the same batch at once, dropout and all."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_batches import Batches
from test_all_objectives import SIZE, batch, experiment

from experiments import tiny
from make_jax.config import Experiment, MeshConfig
from make_jax.model import RetrievalModel, build_model
from make_jax.overrides import apply_overrides
from make_jax.training.mesh import make_mesh, path_name, place_batch
from make_jax.training.microbatches import gradients, part
from make_jax.training.optimizer import make_optimizer
from make_jax.training.step import make_trainer

PARTS = 2


def as_it_is(params: Any) -> Any:
    return params


def objectives(*settings: str) -> Experiment:
    """QIC with a memory, matching, which draws, and what else is asked for."""
    off = [f"objectives.{name}=0" for name in ("title_image", "mpm", "mpm_r")]
    return apply_overrides(experiment(), [*off, *settings])


def at_once(model: RetrievalModel, params: Any, memory: Any, b: Any, rng: jax.Array) -> tuple[jax.Array, Any]:
    """What is meant: every part read by itself, all compared with all, in one function to differentiate."""
    read = [model.read(params, part(b, k, PARTS), jax.random.fold_in(rng, k)) for k in range(PARTS)]
    embedded = jax.tree.map(
        lambda *parts: jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:]), *(one[0] for one in read)
    )
    loss, (metrics, memory) = model.compare(params, embedded, memory, b)
    metrics |= {name: sum(one[2][name] for one in read) / PARTS for name in read[0][2]}
    return loss + sum(one[1] for one in read) / PARTS, (metrics, memory)


def alike(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    for (path, ours), theirs in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=tolerance, err_msg=path_name(path))


def test_parts_have_the_loss_and_gradients_of_the_whole() -> None:
    """Dropout included; and in chunks, which do not change a number."""
    dropout = ["model.query.transformer.layers=1", "model.query.transformer.dropout=0.2"]
    dropout += ["model.fusion.modality_dropout=0.3", "objectives.gate_supervision=0.5", "objectives.hard_negatives=0"]
    model, whole = (build_model(objectives(*dropout, f"objectives.chunk_size={size}")) for size in (3, 0))
    params, memory = jax.jit(model.init)(jax.random.key(0)), model.init_memory()
    step = jax.jit(gradients(model, as_it_is, PARTS))
    first, (_, memory) = step(params, memory, batch(0), jax.random.key(1))[0]  # the memory holds something from now on
    given = params, memory, batch(0), jax.random.key(2)
    found = step(*given)
    alike(found, jax.jit(jax.value_and_grad(lambda *given: at_once(whole, *given), has_aux=True))(*given))
    assert abs(float(first - found[0][0])) > 1e-3  # randomness there is


def test_without_randomness_it_is_the_plain_step() -> None:
    layers = [f"model.{tower}.layers=0" for tower in ("query.transformer", "title.transformer", "fusion")]
    settings = [*layers, "model.modalities=title", "model.vocab_size=64", "objectives.query_image=0"]
    model = build_model(apply_overrides(tiny.get_config(), settings))
    b, params = next(Batches(0)), jax.jit(model.init)(jax.random.key(0))
    plain, split = (jax.jit(gradients(model, as_it_is, parts)) for parts in (1, 4))
    alike(*(found(params, (), b, jax.random.key(1)) for found in (split, plain)))


def records(sizes: tuple[int, int, int], *settings: str) -> list[dict[str, float]]:
    titles = "objectives.mlm=0", "model.modalities=title"  # hard negatives are encoded, too
    config = objectives(f"training.microbatches={PARTS}", *titles, *settings)
    mesh = make_mesh(MeshConfig(*sizes), jax.devices()[: math.prod(sizes)])
    optimizer, parts = make_optimizer(config.optimizer, 100), config.training.microbatches
    trainer = make_trainer(build_model(config), optimizer, mesh, seed=0, microbatches=parts)
    state, found = trainer.init(), []
    for step in range(2):
        state, metrics = trainer.step(state, place_batch(batch(step), mesh))
        found.append({name: float(value) for name, value in metrics.items() if name != "moments"})
    return found


def test_no_number_depends_on_the_mesh_nor_on_chunks() -> None:
    expected, found = records((1, 1, 1)), records((2, 2, 2), "objectives.chunk_size=3")
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, rel=5e-4, abs=1e-5)


def test_only_one_part_is_in_memory_at_a_time() -> None:
    settings = ["model.vocab_size=64", "objectives.chunk_size=64", "model.modalities=title", "objectives.query_image=0"]
    model = build_model(apply_overrides(tiny.get_config(), settings))
    params = jax.eval_shape(model.init, jax.random.key(0))
    b = {name: np.repeat(rows, 32, axis=0) for name, rows in next(Batches(0)).items()}

    def peak(parts: int) -> int:
        lowered = jax.jit(gradients(model, as_it_is, parts)).lower(params, (), b, jax.random.key(0))
        return int(lowered.compile().memory_analysis().temp_size_in_bytes)

    assert peak(16) < peak(1) / 5


def test_parts_are_every_so_many_rows() -> None:
    rows = np.arange(SIZE)
    for number in range(4):
        np.testing.assert_array_equal(part({"rows": rows}, number, 4)["rows"], rows[number::4])
