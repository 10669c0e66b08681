"""Collectives are read off compiled programs: those written here, and a real one."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from make_jax.planning.chips import CHIPS
from make_jax.planning.collectives import read_collectives, spanned
from make_jax.planning.compiling import readable, summed

TEXT = """HloModule jit_step

%body (state: (s32[], f32[8])) -> (s32[], f32[8]) {
  %gathered = f32[64,8]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, use_global_device_ids=true, metadata={op_name="state.params[\'title\'][\'layer_3\'][\'up\'][\'kernel\']"}
}

%async_collective_fusion.1 (p: bf16[4]) -> bf16[16] {
  %part = bf16[16]{0} all-gather(%p), channel_id=2, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}
}

%async_collective_fusion.2 (p: bf16[4]) -> bf16[16] {
  %part.2 = bf16[16]{0} all-gather(%p), channel_id=2, replica_groups=mesh['axis_0'=4,'axis_1'=2] {'axis_0'}, dimensions={0}
}

%all-reduce-scatter (input: f32[64]) -> f32[16] {
  %sum = f32[64]{0} all-reduce(%input), channel_id=3, replica_groups={{0,2,4,6},{1,3,5,7}}, to_apply=%add
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]) while(%init), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"12"}}
  %summed = (f32[100]{0}, pred[7]{0}) all-reduce(%a, %b), channel_id=4, replica_groups=[1,8]<=[8], to_apply=%add
  %moved = (f32[10]{0}, f32[10]{0}) collective-permute-start(%c), channel_id=5, source_target_pairs={{0,1},{1,0}}
  %gathering = (f32[8]{0}, f32[32]{0}) all-gather-start(%d), channel_id=6, replica_groups=mesh['a'=8] {'a':(2)4}, dimensions={0}
  %alone = f32[8]{0} all-reduce(%d), channel_id=7, replica_groups={{0},{1},{2},{3},{4},{5},{6},{7}}, to_apply=%add
  %scattered = f32[5]{0} reduce-scatter(%d), channel_id=8, replica_groups={}, to_apply=%add
}
"""


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
