"""Contrasts in chunks, on one device and on eight, are those of the whole batch, gradients too, with less in memory."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from make_jax.objectives.chunks import WHOLE, Chunks, map_rows
from make_jax.objectives.contrastive import Side
from make_jax.objectives.further import Further
from make_jax.objectives.keywords import Keys, judge_pairs
from make_jax.objectives.paired import Form, Known, contrast, shares

WIDTH, SCALARS = 5, jnp.asarray([12.0, -3.0])
KINDS = ("softmax", "sigmoid")
Problem = tuple[Known, Known, tuple[Further, ...]]


def layout(data: int, fsdp: int) -> NamedSharding:
    devices = jax.devices()[: 2 * data * fsdp]
    mesh = jax.make_mesh((data, fsdp, 2), ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3, devices=devices)
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def problem(seed: int, batch: int, further: int) -> Problem:
    """Two sides that lack some entries, keys that often coincide, and so many sorts of further negatives."""
    rng = np.random.default_rng(seed)

    def key(least: int, *shape: int) -> np.ndarray:
        return rng.integers(least, max(2, batch), shape).astype(np.int32)

    words = (rng.integers(-1, 4, (batch, width)).astype(np.int32) for width in (2, 5))
    keys = Keys(np.arange(batch, dtype=np.int32), key(0, batch), key(0, batch), key(-1, batch, 2), *words)
    sides = []
    for _ in range(2):
        present = rng.random(batch) < 0.8
        vectors = unit(rng, batch, WIDTH) * present[:, None]
        sides.append(Known(Side(vectors, present, rng.normal(size=batch).astype(np.float32)), keys))
    more = [
        Further(
            unit(rng, batch, slots, WIDTH),
            key(-1, batch, slots),
            key(-1, batch, slots),
            key(-1, batch, slots, 2),
            rng.normal(size=(batch, slots)).astype(np.float32),
        )
        for slots in (2, 3)
    ]
    return sides[0], sides[1], tuple(more[:further])


@functools.lru_cache
def compiled(chunks: Chunks, kind: Any, mask: Any, many: bool) -> Any:
    """Loss and gradients with respect to both sides, the further negatives, scale and bias."""

    def loss(given: Any, p: Problem) -> jax.Array:
        rows, columns, further = p
        left, right, more, scalars = given
        return contrast(
            rows._replace(side=rows.side._replace(vectors=left)),
            columns._replace(side=columns.side._replace(vectors=right)),
            functools.partial(judge_pairs, mask=mask, many_positives=many),
            Form(kind, 0.2 if kind == "softmax" else 0.0, *scalars),
            [found._replace(vectors=vectors) for found, vectors in zip(further, more, strict=True)],
            chunks,
        )

    return jax.jit(jax.value_and_grad(loss))


def found(p: Problem, chunks: Chunks, *switches: Any) -> Any:
    vectors = p[0].side.vectors, p[1].side.vectors, [further.vectors for further in p[2]], SCALARS
    return jax.device_get(compiled(chunks, *switches)(vectors, p))


def check(p: Problem, chunks: Chunks, *switches: Any) -> None:
    expected, ours = found(p, WHOLE, *switches), found(p, chunks, *switches)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(ours), strict=True):
        np.testing.assert_allclose(other, one, rtol=2e-5, atol=2e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(ours))


@settings(max_examples=25)
@given(
    shape=st.sampled_from([(1, 3), (7, 3)]),  # each compiles anew, as do the switches
    seed=st.integers(0, 2**31),
    switches=st.sampled_from(
        [(0, "softmax", "query", False), (2, "softmax", "title", True), (2, "sigmoid", "title", False)]
    ),
)
def test_chunks_are_the_whole(shape: tuple[int, int], seed: int, switches: Any) -> None:
    (batch, size), (further, *rest) = shape, switches
    check(problem(seed, batch, further), Chunks(size), *rest)


@pytest.mark.parametrize(
    ("kind", "size", "sizes"), [("softmax", 3, (2, 2)), ("softmax", 2, (4, 1)), ("sigmoid", 3, (1, 4))]
)
def test_on_a_mesh_they_are_the_whole_too(kind: str, size: int, sizes: tuple[int, int]) -> None:
    check(problem(3, 16, 2), Chunks(size, layout(*sizes)), kind, "title", True)


def test_shares_of_pairs_are_the_same_in_chunks() -> None:
    keys = problem(1, 12, 0)[0].keys
    judge = functools.partial(judge_pairs, mask="title", many_positives=True)
    expected = shares(keys, judge)
    assert float(expected["positive"]) > 1 / 12
    for chunks in (Chunks(5), Chunks(2, layout(2, 2))):
        for name, share in shares(keys, judge, chunks).items():
            np.testing.assert_allclose(share, expected[name], rtol=1e-6)


def test_rows_that_devices_do_not_divide_are_mapped_as_well() -> None:
    columns, rows = np.arange(8.0, dtype=np.float32), np.arange(5.0, dtype=np.float32)

    def function(part: Any, columns: Any, fixed: Any) -> Any:
        return fixed * part * jnp.sum(columns), jnp.stack([part, part], axis=1)

    once, twice = map_rows(function, rows, columns, jnp.float32(2), Chunks(2, layout(2, 2)))
    np.testing.assert_array_equal(once, 56 * rows)
    np.testing.assert_array_equal(twice, np.stack([rows, rows], axis=1))


def program(batch: int, chunks: Chunks, kind: str) -> Any:
    """Loss and gradients, compiled."""
    p = problem(0, batch, 1)
    vectors = p[0].side.vectors, p[1].side.vectors, [further.vectors for further in p[2]], SCALARS
    return compiled(chunks, kind, "query", False).lower(vectors, p).compile()


def peak(batch: int, chunks: Chunks, kind: str) -> int:
    """Bytes that XLA sets aside beside inputs and outputs."""
    return int(program(batch, chunks, kind).memory_analysis().temp_size_in_bytes)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_grows_with_the_batch_and_not_with_its_square(kind: str) -> None:
    sizes = (1024, 4096)
    plain, chunked = ([peak(size, chunks, kind) for size in sizes] for chunks in (WHOLE, Chunks(64)))
    assert plain[1] > 12 * plain[0]
    assert chunked[1] < 5 * chunked[0]
    assert chunked[1] < plain[1] / 20


def test_no_device_of_a_mesh_has_the_logits_of_more_than_a_chunk() -> None:
    text = program(2048, Chunks(64, layout(2, 2)), "softmax").as_text()
    assert "f32[64,2048]" in text
    assert "[512,2048]" not in text
    assert "[2048,2048]" not in text
    assert "all-gather" in text
    assert "reduce-scatter" in text
