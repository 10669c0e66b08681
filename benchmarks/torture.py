"""What a run survives: kills at random moments, other meshes, a full disk; and that a long one needs no more memory.

Every start is a process of its own, `python -m make_jax train experiments/tiny.py`, on a small synthetic catalogue.
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import click
import numpy as np
from harness import Row, report
from training_runs import (
    Setup,
    files_below,
    has_done,
    in_checkpoints,
    last_step,
    mount,
    prepare,
    resident,
    small_disk,
    unsound,
    wait,
)

PARTS = ("kills", "devices", "disk", "memory")
GRACE = 30.0  # seconds that a cluster gives between SIGTERM and the end
STEPS_A_KILL = 30  # more than a run gets on between two of them
TOLERANCE = 2e-4  # of losses on other meshes, relative
MOST_GROWTH = 1.02  # of the memory of 1,000 steps over that after the first 200
Moment = Literal["start", "step", "save", "evaluation"]


class Kill(NamedTuple):
    """One kill: the signal, the moment that is waited for, and how long after it. `steps` are those to go first."""

    number: signal.Signals
    moment: Moment
    steps: int
    delay: float


def plan_kills(count: int, seed: int) -> list[Kill]:
    """Kills as a function of the seed, by SIGKILL or SIGTERM, every other one while a checkpoint is saved."""
    draw = random.Random(seed)
    moments: list[Moment] = ["save", "save", "step", "evaluation", "save", "step", "start", "save"]
    return [
        Kill(
            draw.choice([signal.SIGKILL, signal.SIGTERM]),
            moments[number % len(moments)],
            draw.randrange(1, STEPS_A_KILL // 2),
            draw.choice([0.0, draw.uniform(0, 0.05), draw.uniform(0, 0.5)]),
        )
        for number in range(count)
    ]


def torture(setup: Setup, kills: list[Kill]) -> Iterator[Row]:
    """One run that is killed again and again against one that is left alone."""
    from make_jax.run import read_metrics

    habits = (
        f"training.steps={len(kills) * STEPS_A_KILL}",
        *("training.checkpoint_every=7", "training.eval_every=20", "training.log_every=1"),
        *("training.ema_decay=0.9", "training.keep_every=70", "training.keep_best=1"),
    )
    alone, killed = setup.workdir / "alone", setup.workdir / "killed"
    setup.finish(alone, *habits)
    waits, damaged, done = [], 0, 0
    for kill in kills:
        process = setup.start(killed, *habits)
        if _strike(process, killed, kill):
            done += 1
        asked = time.monotonic()
        setup.ended(process, killed, 0, -kill.number)
        if kill.number == signal.SIGTERM and process.returncode == 0:
            waits.append(time.monotonic() - asked)
        damaged += unsound(killed)
    setup.finish(killed, *habits)
    losses = [
        {r["step"]: r["loss"] for r in read_metrics(run / "metrics.jsonl") if "loss" in r} for run in (alone, killed)
    ]
    same = (alone / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    yield Row("kills survived", done, "kills", f"{len(kills)} planned", done / len(kills), 1.0)
    yield Row("parameters, bit by bit", int(same), "equal", "the undisturbed run's", float(same), 1.0)
    yield Row(
        "losses, bit by bit", len(losses[1]), "steps", "the undisturbed run's", float(losses[0] == losses[1]), 1.0
    )
    yield Row("checkpoints not sound", damaged, "after all kills", "0 wanted", float(damaged), 0.0, False)
    if waits:
        worst = max(waits)
        yield Row("SIGTERM to the end, slowest", worst, "s", f"{GRACE:.0f} s", worst / GRACE, 1.0, False)


def _strike(process: subprocess.Popen[bytes], run: Path, kill: Kill) -> bool:
    """Wait for the moment, then kill; False where the run was over before."""
    if kill.moment != "start":
        from_step = last_step(run)
        wait(process, lambda: last_step(run) != from_step)  # it has begun: what is to be repeated was dropped
        from_step = last_step(run)
        wait(process, functools.partial(has_done, run, from_step + kill.steps))
    if kill.moment == "save":
        wait(process, lambda: any(in_checkpoints(run, "*.orbax-checkpoint-tmp*")))
    elif kill.moment == "evaluation":
        wait(process, lambda: last_step(run) % 20 == 0)
    time.sleep(kill.delay * (10 if kill.moment == "start" else 1))
    struck = process.poll() is None
    process.send_signal(kill.number)
    return struck


def other_meshes(setup: Setup) -> Iterator[Row]:
    """A run that goes on with 8, then 1, then 4 devices against one with 8."""
    from make_jax.run import read_metrics

    habits = ("training.steps=60", "training.checkpoint_every=0", "training.log_every=1", "training.ema_decay=0.9")
    alone, moved = setup.workdir / "eight", setup.workdir / "moved"
    setup.finish(alone, *habits, devices=8)
    for devices, last, mesh in ((8, 10, "mesh.fsdp=2"), (1, 25, "mesh.fsdp=1")):
        process = setup.start(moved, *habits, mesh, devices=devices)
        wait(process, functools.partial(has_done, moved, last))
        process.send_signal(signal.SIGTERM)
        setup.ended(process, moved)
    setup.finish(moved, *habits, "mesh.fsdp=4", devices=4)
    ours, theirs = (
        np.array([r["loss"] for r in read_metrics(run / "metrics.jsonl") if "loss" in r]) for run in (moved, alone)
    )
    if len(ours) != len(theirs):
        raise RuntimeError(f"{len(ours)} losses, not {len(theirs)}")
    worst = float(np.max(np.abs(ours / theirs - 1)))
    against = f"8 devices all along, tolerance {TOLERANCE:g}"
    yield Row("losses on 8, 1, 4 devices", worst, "relative", against, worst / TOLERANCE, 1.0, more_is_better=False)


def full_disk(setup: Setup) -> Iterator[Row]:
    """A disk that is full before the third checkpoint is whole."""
    whole = setup.workdir / "whole"
    setup.finish(whole)
    sizes = {path.relative_to(whole): -(-path.stat().st_size // 4096) * 4096 for path in files_below(whole)}
    checkpoint = sum(size for path, size in sizes.items() if path.parts[:2] == ("checkpoints", "30"))
    others = sum(size for path, size in sizes.items() if path.parts[0] not in ("checkpoints", "model.safetensors"))
    with small_disk(setup.workdir / "small", others + checkpoint * 5 // 2) as disk:
        if disk is None:
            click.echo("full disk: left out, mounting a file system is not allowed here")
            return
        run = disk / "run"
        output = setup.ended(setup.start(run), run, 2)
        said = [line for line in output.splitlines() if line.startswith("make-jax: error: ")]
        clear = len(said) == 1 and "No space left on device" in said[0] and "Traceback" not in output
        left = [path.name for path in in_checkpoints(run, "*") if path.name.isdigit()]
        mount(disk, "remount,size=1g")
        yield Row("errors of a full disk", len(said), "line", "1 wanted, that says so", float(clear), 1.0)
        yield Row("checkpoints after it", len(left), "there", "sound", float(len(left) >= 1 and not unsound(run)), 1.0)
        setup.finish(run)
        same = (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        yield Row("parameters after more room", int(same), "equal", "the undisturbed run's", float(same), 1.0)


def memory(setup: Setup, steps: int = 1000) -> Iterator[Row]:
    """What a run holds in memory, and how many programs it compiles, after its first steps."""
    from make_jax.run import read_metrics

    run, warm = setup.workdir / "long", steps // 5
    habits = (f"training.steps={steps}", f"training.eval_every={warm // 2}", f"training.checkpoint_every={warm // 4}")
    process = setup.start(run, *habits, "training.log_every=10")
    samples = []
    while process.poll() is None:
        if held := resident(process.pid):
            samples.append((last_step(run), held))
        time.sleep(0.1)
    setup.ended(process, run)
    taken, held = np.array([sample for sample in samples if sample[0] > warm]).T
    early, late = held[taken <= 2 * warm].mean(), held[taken > steps - warm].mean()
    against = f"{early:,.0f} MiB from step {warm} to {2 * warm}"
    yield Row(f"memory to step {steps}", late, "MiB", against, late / early, MOST_GROWTH, more_is_better=False)
    compiled = sum(r.get("compilations", 0) for r in read_metrics(run / "metrics.jsonl") if r["step"] > warm)
    yield Row(f"programs compiled after step {warm}", compiled, "programs", "0 wanted", float(compiled), 0.0, False)


@click.command(context_settings={"show_default": True})
@click.option("--kills", default=50)
@click.option("--seed", default=0)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), help="Of the four, all if not given.")
@click.option("--steps", default=1000, help="Of the part about memory.")
@click.option("--workdir", type=click.Path(path_type=Path, file_okay=False), help="Kept; else a folder that goes.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the table here.")
def main(
    kills: int, seed: int, parts: tuple[str, ...], steps: int, workdir: Path | None, json_file: Path | None
) -> None:
    """Kill runs, move them between devices, fill their disk, and watch their memory."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    folder = workdir or Path(tempfile.mkdtemp(prefix="make-jax-torture-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        setup = Setup(prepare(folder), folder)
        made = {
            "kills": lambda: torture(setup, plan_kills(kills, seed)),
            "devices": lambda: other_meshes(setup),
            "disk": lambda: full_disk(setup),
            "memory": lambda: memory(setup, steps),
        }
        report([row for part in parts or PARTS for row in made[part]()], json_file)
    finally:
        if workdir is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
