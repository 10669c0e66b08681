"""Slices by name, times, and what is said where a step does not fit."""

from __future__ import annotations

import dataclasses

import pytest

from experiments import tiny
from make_jax.errors import UserError
from make_jax.planning.chips import CHIPS, GIB, parse_slice
from make_jax.planning.compiling import read_overflow
from make_jax.planning.estimates import exchanges_by_kind, remedies, roofline, speed
from make_jax.planning.jobs import Compiled, Exchange, Job, Program, to_json
from make_jax.planning.page import Planned, as_text

OVERFLOW = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 20.50G of 15.75G hbm. Exceeded hbm capacity by 4.75G.\n\nTotal hbm usage >= 20.75G:\n"
    "    reserved        258.00M\n    program          9.50G\n    arguments       11.00G\n"
)


def compiled(train: Program, state: int = GIB, data: int = 8, fsdp: int = 1) -> Compiled:
    mesh = {"data": data, "fsdp": fsdp, "tensor": 1}
    return Compiled(mesh, 10**8, 6 * 10**15, state, train, Program(True, 16 * GIB, GIB), 2048)


FITS = Program(
    True,
    16 * GIB,
    2 * GIB,
    {"arguments": GIB, "temporaries": GIB, "results": 0, "code": 0},
    flops=197e12 / 2,
    bytes_accessed=819e9 / 4,
    exchanges=(
        Exchange("all-reduce", "f32[8]", "title", 2, 8, 1e9, 0.01),
        Exchange("all-gather", "f32[8]", "title", 1, 8, 3e9, 0.03),
        Exchange("all-reduce", "f32[9]", "image", 1, 8, 4e9, 0.04),
    ),
)


def test_slices_are_known_by_name() -> None:
    found = parse_slice("v5p:4x4x8")
    assert (found.chip, found.chips, found.name) == (CHIPS["v5p"], 128, "v5p:4x4x8")
    assert parse_slice("v5e:16x16").chip.axis_bandwidth == 100e9
    for name, told in [
        ("v5e", "CHIP:SIZES"),
        ("v9:2x2", "v4, v5e"),
        ("v5e:4x4x4", "2 axes"),
        ("v6e:32x16", "512 chips"),
    ]:
        with pytest.raises(UserError, match=told):
            parse_slice(name)
    with pytest.raises(UserError, match="0 chips"):
        parse_slice("v5e:0x4")


def test_the_longest_part_is_the_step() -> None:
    busy = roofline(FITS, CHIPS["v5e"])
    assert busy == pytest.approx((0.5, 0.25, 0.08))
    assert (busy.seconds, busy.bound) == (busy.compute, "compute")
    best = speed(compiled(FITS), 0.5, CHIPS["v5e"], chips=64, batch_size=1000, pairs=86_400_000)
    assert best.examples == 2000
    assert best.days == 0.5
    assert best.utilisation == pytest.approx(6e15 / (0.5 * 64 * 197e12))
    assert exchanges_by_kind(FITS.exchanges) == [("all-reduce", 3, 5e9, 0.05), ("all-gather", 1, 3e9, 0.03)]


def test_what_the_compiler_says_of_too_much_is_read() -> None:
    found = read_overflow(OVERFLOW)
    assert found is not None
    assert not found.fits
    assert (found.needed, found.limit) == (round(20.5 * GIB), round(15.75 * GIB))
    assert found.memory == {"temporaries": round(9.5 * GIB), "arguments": 11 * GIB}
    assert read_overflow("INTERNAL: something else") is None


def test_what_helps_depends_on_what_is_large() -> None:
    experiment = tiny.get_config()
    experiment = dataclasses.replace(experiment, training=dataclasses.replace(experiment.training, batch_size=1024))
    over = Program(False, 16 * GIB, 32 * GIB)
    activations = remedies(compiled(over, state=GIB), experiment)
    assert activations[0].startswith("training.batch_size=464:")  # 8 × (128 · 0.95 · 15 / 31)
    assert "16.0 GiB are missing" in activations[-1]
    state = remedies(compiled(over, state=24 * GIB), experiment)
    assert state[0].startswith("mesh.fsdp=8: parameters and optimizer take 24.0 GiB of each chip, and would take 3.0")
    assert not any("batch_size" in line for line in state)
    assert remedies(compiled(over, state=24 * GIB, data=1, fsdp=8), experiment)[0].startswith("a slice of 2.0 times")


def test_plans_lie_side_by_side() -> None:
    experiment = tiny.get_config()
    place = parse_slice("v5e:2x4")
    plans = [
        Planned(Job("v5e:2x4", experiment, "v5e:2x4", tpu=True), place, compiled(FITS), 480),
        Planned(
            Job("v5e:2x4 mesh.fsdp=2", experiment, "v5e:2x4", tpu=True),
            place,
            compiled(Program(False, 16 * GIB, 20 * GIB, {"arguments": GIB})),
            480,
        ),
    ]
    text = as_text(plans)
    header = text.splitlines()[0].split("  ")
    assert header[-1] == "v5e:2x4 mesh.fsdp=2"
    assert "yes" in text
    assert "NO" in text
    assert "500.00 ms (compute)" in text
    assert "v5e:2x4 mesh.fsdp=2: does not fit; change one of" in text
    assert "rough" not in text
    assert as_text([plans[0]._replace(job=dataclasses.replace(plans[0].job, tpu=False))]).startswith("rough")


def test_jobs_and_answers_survive_the_way() -> None:
    job = Job("here", tiny.get_config(), "v5e:2x2", tpu=True)
    assert Job.from_json(to_json(job)) == job
    assert Compiled.from_json(to_json(compiled(FITS))) == compiled(FITS)
