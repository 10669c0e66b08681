"""Collectives are read off compiled programs: those written here, and a real one."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from make_jax.planning.chips import CHIPS
from make_jax.planning.collectives import read_collectives, spanned
from make_jax.planning.compiling import readable, summed

TEXT = Path(__file__).with_name("sample.hlo").read_text()


def test_every_form_of_a_collective_is_read() -> None:
    found = read_collectives(TEXT, 8)
    assert [(c.kind, c.bytes, c.group, c.times, c.arrays) for c in found] == [
        ("all-gather", 64 * 8 * 4, (0, 2, 4, 6), 12, 1),
        ("all-gather", 32, (0, 2, 4, 6), 1, 1),  # two steps of one exchange
        ("reduce-scatter", 256, (0, 2, 4, 6), 1, 1),
        ("all-reduce", 407, tuple(range(8)), 1, 2),
        ("collective-permute", 40, (0, 1), 1, 1),
        ("all-gather", 128, (0, 1, 2, 3), 1, 1),
        ("reduce-scatter", 160, tuple(range(8)), 1, 1),
    ]
    assert [c.sent() for c in found[2:5]] == [0.75 * 256, 2 * 7 / 8 * 407, 40]
    assert found[3].shape == (100,)


def test_exchanges_alike_are_summed_and_timed_by_the_axes_they_span() -> None:
    places = [(x, y) for x in range(4) for y in range(2)]
    assert [spanned(group, places) for group in ((0, 1), (0, 2, 4, 6), tuple(range(8)))] == [1, 1, 2]
    chip = CHIPS["v5e"]
    found = summed(read_collectives(TEXT, 8), places, chip)
    assert [one.seconds for one in found] == sorted((one.seconds for one in found), reverse=True)
    first = found[0]
    assert (first.kind, first.count, first.group) == ("all-gather", 12, 4)
    assert (first.array, first.source) == ("f32[64,8]", "parameter title/layer_*/up/kernel")
    assert first.bytes == 12 * 0.75 * 2048
    assert first.seconds == first.bytes / 100e9
    whole = next(one for one in found if one.kind == "all-reduce")
    assert whole.seconds == whole.bytes / 200e9
    assert whole.array == "f32[100] and 1 more"


def test_sources_say_where_in_the_model() -> None:
    name = "jit(step)/transpose(jvp(MakeModule.losses))/MakeModule._outputs/image/image.read/transformer/layer_0/up/dot"
    assert readable(name) == "backward of image/read/transformer/layer_*/up/dot"
    assert readable("jit(step)/jvp(parameter title/up/kernel)/sharding_constraint") == "parameter title/up/kernel"
    assert readable("jit(encode)/parameter title/up/kernel/sharding_constraint") == "parameter title/up/kernel"
    name = "jit(step)/transpose(jvp(parameter title/layer_2/up/kernel))/sharding_constraint"
    assert readable(name) == "backward of parameter title/layer_*/up/kernel"
    assert readable("params['title']['tokens']['embedding']") == "parameter title/tokens/embedding"


def test_a_real_program_tells_what_it_sends() -> None:
    mesh = jax.make_mesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2, devices=jax.devices())
    split = NamedSharding(mesh, PartitionSpec("a"))

    def summed_over_a(x: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, 5, lambda _, y: y + jnp.sum(x * y, axis=0), jnp.zeros(96))

    shape = jax.ShapeDtypeStruct((64, 96), np.float32, sharding=split)
    text = jax.jit(summed_over_a, out_shardings=NamedSharding(mesh, PartitionSpec())).lower(shape).compile().as_text()
    assert text is not None
    (found,) = read_collectives(text, 8)
    assert (found.kind, found.bytes, found.group, found.times) == ("all-reduce", 384, (0, 2, 4, 6), 5)
