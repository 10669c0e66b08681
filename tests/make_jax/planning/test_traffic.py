"""Bytes are read off real programs: as the compiler counts them where there is no loop, and loops by their turns."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from make_jax.planning.traffic import hbm_bytes

LAYERS, WIDTH = 12, 256


def stacked(x: jax.Array, weights: jax.Array, unroll: int) -> jax.Array:
    def layer(states: jax.Array, weight: jax.Array) -> tuple[jax.Array, None]:
        return jnp.tanh(states @ weight) + 1, None

    return jax.lax.scan(layer, x, weights, unroll=unroll)[0].sum()


def compiled(unroll: int) -> Any:
    x, weights = jnp.ones((WIDTH, WIDTH)), jnp.ones((LAYERS, WIDTH, WIDTH))
    return jax.jit(jax.grad(lambda w: stacked(x, w, unroll))).lower(weights).compile()


def test_without_loops_it_is_what_the_compiler_says() -> None:
    softmax = jax.jit(jax.grad(lambda a, b: jax.nn.softmax(a @ b).var() + (2 * a)[3:5].sum()))
    for program in (compiled(LAYERS), softmax.lower(jnp.ones((512, 256)), jnp.ones((256, 512))).compile()):
        assert hbm_bytes(program.as_text()) == pytest.approx(program.cost_analysis()["bytes accessed"], rel=0.01)


def test_a_loop_counts_by_its_turns_and_each_turn_by_its_slices() -> None:
    """Each turn keeps its states for the way back, so there is a little more to do than without a loop."""
    written_out, loop = (hbm_bytes(compiled(unroll).as_text()) for unroll in (LAYERS, 1))
    assert written_out < loop < 3 * written_out


TPU = """HloModule step

%fused (p.0: bf16[4,8], p.1: bf16[12,4,8], p.2: s32[]) -> bf16[4,8] {
  %p.0 = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %p.1 = bf16[12,4,8]{2,1,0:T(8,128)(2,1)} parameter(1)
  %p.2 = s32[]{:T(128)} parameter(2)
  %slice.1 = bf16[1,4,8]{2,1,0} dynamic-slice(%p.1, %p.2, %p.2, %p.2), dynamic_slice_sizes={1,4,8}
  %flat.1 = bf16[4,8]{1,0} bitcast(%slice.1)
  ROOT %sum.1 = bf16[4,8]{1,0} add(%p.0, %flat.1)
}

%body (state: (s32[], bf16[4,8], bf16[12,4,8])) -> (s32[], bf16[4,8], bf16[12,4,8]) {
  %state = (s32[], bf16[4,8]{1,0}, bf16[12,4,8]{2,1,0}) parameter(0)
  %at = s32[] get-tuple-element(%state), index=0
  %x = bf16[4,8]{1,0} get-tuple-element(%state), index=1
  %w = bf16[12,4,8]{2,1,0} get-tuple-element(%state), index=2
  %near.1 = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} fusion(%x, %w, %at), kind=kLoop, calls=%fused
  %far.1 = bf16[4,8]{1,0:T(8,128)(2,1)} copy(%near.1)
  ROOT %next = (s32[], bf16[4,8]{1,0}, bf16[12,4,8]{2,1,0}) tuple(%at, %far.1, %w)
}

%more (state.1: (s32[], bf16[4,8], bf16[12,4,8])) -> pred[] {
  %state.1 = (s32[], bf16[4,8]{1,0}, bf16[12,4,8]{2,1,0}) parameter(0)
  %at.1 = s32[] get-tuple-element(%state.1), index=0
  %end = s32[]{:T(128)} constant(12)
  ROOT %yes = pred[] compare(%at.1, %end), direction=LT
}

ENTRY %main (a: bf16[4,8], b: bf16[12,4,8]) -> bf16[4,8] {
  %a = bf16[4,8]{1,0} parameter(0)
  %b = bf16[12,4,8]{2,1,0} parameter(1)
  %zero = s32[] constant(0)
  %first = (s32[], bf16[4,8]{1,0}, bf16[12,4,8]{2,1,0}) tuple(%zero, %a, %b)
  %loop = (s32[], bf16[4,8]{1,0}, bf16[12,4,8]{2,1,0}) while(%first), condition=%more, body=%body, """
TPU += """metadata={op_name="jit(step)/while"}
  %begun = ((bf16[12,4,8]{2,1,0}), bf16[2,4,8]{2,1,0:S(1)}, s32[]{:S(2)}) slice-start(%b), slice={[0:2], [0:4], [0:8]}
  %there = bf16[2,4,8]{2,1,0:S(1)} slice-done(%begun)
  ROOT %out = bf16[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_what_stays_beside_the_cores_is_not_moved() -> None:
    """A turn reads 4 × 8 states and as many weights of the twelve layers', and its number; it writes what is copied.

    Then the weights of two layers are read ahead. A condition that compares two numbers is there, too.
    """
    assert hbm_bytes(TPU) == 12 * (64 + 64 + 4 + 64) + 2 * 64 + (4 + 4 + 1)


NESTED = """HloModule nested

%cut (p.0: bf16[12,4,8], p.1: s32[]) -> bf16[4,8] {
  %p.0 = bf16[12,4,8]{2,1,0} parameter(0)
  %p.1 = s32[] parameter(1)
  %slice.1 = bf16[1,4,8]{2,1,0} dynamic-slice(%p.0, %p.1, %p.1, %p.1), dynamic_slice_sizes={1,4,8}
  ROOT %flat.1 = bf16[4,8]{1,0} bitcast(%slice.1)
}

%put (p.2: bf16[12,4,8], p.3: bf16[4,8], p.4: s32[]) -> bf16[12,4,8] {
  %p.2 = bf16[12,4,8]{2,1,0} parameter(0)
  %p.3 = bf16[4,8]{1,0} parameter(1)
  %p.4 = s32[] parameter(2)
  %new.1 = bf16[1,4,8]{2,1,0} bitcast(%p.3)
  ROOT %put.1 = bf16[12,4,8]{2,1,0} dynamic-update-slice(%p.2, %new.1, %p.4, %p.4, %p.4)
}

%fused (p.5: bf16[12,4,8], p.6: bf16[12,4,8], p.7: s32[]) -> (bf16[12,4,8], bf16[4,8]) {
  %p.5 = bf16[12,4,8]{2,1,0} parameter(0)
  %p.6 = bf16[12,4,8]{2,1,0} parameter(1)
  %p.7 = s32[] parameter(2)
  %one.1 = bf16[4,8]{1,0} fusion(%p.5, %p.7), kind=kLoop, calls=%cut
  %more.1 = bf16[4,8]{1,0} add(%one.1, %one.1)
  %all.1 = bf16[12,4,8]{2,1,0} fusion(%p.6, %more.1, %p.7), kind=kLoop, calls=%put
  ROOT %both.1 = (bf16[12,4,8]{2,1,0}, bf16[4,8]{1,0}) tuple(%all.1, %more.1)
}

ENTRY %main (a: bf16[12,4,8], at: s32[]) -> bf16[12,4,8] {
  %a = bf16[12,4,8]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %room = bf16[12,4,8]{2,1,0} custom-call(), custom_call_target="AllocateBuffer"
  %made = (bf16[12,4,8]{2,1,0}, bf16[4,8]{1,0}) fusion(%a, %room, %at), kind=kOutput, calls=%fused
  ROOT %out = bf16[12,4,8]{2,1,0} get-tuple-element(%made), index=0
}
"""


def test_slices_are_cut_and_put_by_what_a_fusion_fuses_too() -> None:
    """One slice is read and its place, one put into the room, whose making moves nothing, and one written."""
    assert hbm_bytes(NESTED) == 64 + 4 + 64 + 64
