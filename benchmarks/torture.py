"""What a run survives: kills at random moments, other meshes, a full disk; and that a long one needs no more memory.

Every start is a process of its own, `python -m make_jax train experiments/tiny.py`, on a small synthetic catalogue.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import click
import numpy as np
from harness import Row, report

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "experiments" / "tiny.py"
PARTS = ("kills", "devices", "disk", "memory")
GRACE = 30.0  # seconds that a cluster gives between SIGTERM and the end
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
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


@dataclass(frozen=True)
class Setup:
    """What all runs of a call share: prepared data, a folder to work in, and further settings."""

    data: Path
    workdir: Path
    settings: tuple[str, ...] = ()

    def command(self, run: Path, *settings: str) -> list[str]:
        options = [part for setting in (*self.settings, *settings) for part in ("--set", setting)]
        train = [sys.executable, "-m", "make_jax", "train", str(TINY)]
        return [*train, "--data", str(self.data), "--workdir", str(run), *options]

    def start(self, run: Path, *settings: str, devices: int = 1) -> subprocess.Popen[str]:
        flags = f"{FAST_COMPILE} --xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        # Every start compiles the same.
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(self.workdir / "compiled"))
        environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        return subprocess.Popen(
            self.command(run, *settings), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    def finish(self, run: Path, *settings: str, devices: int = 1) -> str:
        """Run to the end; what it printed."""
        return ended(self.start(run, *settings, devices=devices))


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a process printed, once it has ended as expected."""
    output, _ = process.communicate()
    if process.returncode != code:
        raise RuntimeError(f"exit code {process.returncode}, not {code}:\n{output}")
    return output


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
    waits, unsound, done = [], 0, 0
    for kill in kills:
        process = setup.start(killed, *habits)
        if _strike(process, killed, kill):
            done += 1
        asked = time.monotonic()
        output, _ = process.communicate()
        if kill.number == signal.SIGTERM and process.returncode == 0:
            waits.append(time.monotonic() - asked)
        elif process.returncode not in (0, -kill.number):
            raise RuntimeError(f"exit code {process.returncode} after {kill}:\n{output}")
        unsound += _unsound(killed)
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
    yield Row("checkpoints not sound", unsound, "after all kills", "0 wanted", float(unsound), 0.0, False)
    if waits:
        worst = max(waits)
        yield Row("SIGTERM to the end, slowest", worst, "s", f"{GRACE:.0f} s", worst / GRACE, 1.0, False)


def _strike(process: subprocess.Popen[str], run: Path, kill: Kill) -> bool:
    """Wait for the moment, then kill; False where the run was over before."""
    if kill.moment != "start":
        from_step = _last_step(run)
        _wait(process, lambda: _last_step(run) != from_step)  # it has begun: what is to be repeated was dropped
        from_step = _last_step(run)
        _wait(process, lambda: _last_step(run) >= from_step + kill.steps)
    if kill.moment == "save":
        _wait(process, lambda: any(_folders(run, "*.orbax-checkpoint-tmp*")))
    elif kill.moment == "evaluation":
        _wait(process, lambda: _last_step(run) % 20 == 0)
    time.sleep(kill.delay * (10 if kill.moment == "start" else 1))
    struck = process.poll() is None
    process.send_signal(kill.number)
    return struck


def _wait(process: subprocess.Popen[str], holds: Callable[[], bool]) -> None:
    while not holds() and process.poll() is None:
        time.sleep(0.002)


def _folders(run: Path, pattern: str) -> list[Path]:
    return list((run / "checkpoints").glob(pattern))


def _last_step(run: Path) -> int:
    """The last step that `metrics.jsonl` tells of, read off its end; 0 if there is none."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            found = re.findall(rb'"step": (\d+)', file.read())
    except OSError:
        return 0
    return int(found[-1]) if found else 0


def _unsound(run: Path) -> int:
    from make_jax.training.checkpoint_files import saved_steps
    from make_jax.training.checkpoints import damage

    folder = run / "checkpoints"
    return sum(damage(folder / str(step)) is not None for step in saved_steps(folder))


def other_meshes(setup: Setup) -> Iterator[Row]:
    """A run that goes on with 8, then 1, then 4 devices against one with 8."""
    from make_jax.run import read_metrics

    habits = ("training.steps=60", "training.checkpoint_every=0", "training.log_every=1", "training.ema_decay=0.9")
    alone, moved = setup.workdir / "eight", setup.workdir / "moved"
    setup.finish(alone, *habits, devices=8)
    for devices, last, mesh in ((8, 10, "mesh.fsdp=2"), (1, 25, "mesh.fsdp=1")):
        process = setup.start(moved, *habits, mesh, devices=devices)
        _wait(process, lambda last=last: _last_step(moved) >= last)
        process.send_signal(signal.SIGTERM)
        ended(process)
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
    sizes = {path.relative_to(whole): -(-path.stat().st_size // 4096) * 4096 for path in _files(whole)}
    checkpoint = sum(size for path, size in sizes.items() if path.parts[:2] == ("checkpoints", "30"))
    others = sum(size for path, size in sizes.items() if path.parts[0] not in ("checkpoints", "model.safetensors"))
    with small_disk(setup.workdir / "small", others + checkpoint * 5 // 2) as disk:
        if disk is None:
            click.echo("full disk: left out, mounting a file system is not allowed here")
            return
        run = disk / "run"
        output = ended(setup.start(run), code=2)
        said = [line for line in output.splitlines() if line.startswith("make-jax: error: ")]
        clear = len(said) == 1 and "No space left on device" in said[0] and "Traceback" not in output
        left = [path.name for path in _folders(run, "*") if path.name.isdigit()]
        _mount(disk, "remount,size=1g")
        yield Row("errors of a full disk", len(said), "line", "1 wanted, that says so", float(clear), 1.0)
        yield Row("checkpoints after it", len(left), "there", "sound", float(len(left) >= 1 and not _unsound(run)), 1.0)
        setup.finish(run)
        same = (run / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
        yield Row("parameters after more room", int(same), "equal", "the undisturbed run's", float(same), 1.0)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path | None]:
    """A file system of so many bytes; None where this process may not mount one."""
    folder.mkdir()
    mounted = _mount(folder, f"size={size}")
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


def _mount(folder: Path, options: str) -> bool:
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode == 0


def memory(setup: Setup, steps: int = 1000) -> Iterator[Row]:
    """What a run holds in memory, and how many programs it compiles, after its first steps."""
    from make_jax.run import read_metrics

    run, warm = setup.workdir / "long", steps // 5
    habits = (f"training.steps={steps}", f"training.eval_every={warm // 2}", f"training.checkpoint_every={warm // 4}")
    process = setup.start(run, *habits, "training.log_every=10")
    samples = []
    while process.poll() is None:
        if held := _resident(process.pid):
            samples.append((_last_step(run), held))
        time.sleep(0.1)
    ended(process)
    taken, held = np.array([sample for sample in samples if sample[0] > warm]).T
    early, late = held[taken <= 2 * warm].mean(), held[taken > steps - warm].mean()
    against = f"{early:,.0f} MiB from step {warm} to {2 * warm}"
    yield Row(f"memory to step {steps}", late, "MiB", against, late / early, MOST_GROWTH, more_is_better=False)
    compiled = sum(r.get("compilations", 0) for r in read_metrics(run / "metrics.jsonl") if r["step"] > warm)
    yield Row(f"programs compiled after step {warm}", compiled, "programs", "0 wanted", float(compiled), 0.0, False)


def _resident(process: int) -> float | None:
    """MiB that a process holds; None once it has ended."""
    try:
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    except OSError:
        return None
    return int(found[1]) / 1024 if found else None


def prepare(folder: Path) -> Path:
    """A synthetic catalogue of 200 products, prepared for training."""
    from data_pipelines.prepare import prepare as prepare_data
    from data_pipelines.synthetic import SyntheticSpec, write_catalogue

    tables = write_catalogue(SyntheticSpec(products=200, dev_queries=20, image_size=(32, 32)), folder / "tables")
    prepare_data(
        products=tables.products,
        interactions=str(tables.interactions),
        queries=str(tables.queries),
        qrels=str(tables.qrels),
        out=folder / "data",
        progress=False,
    )
    return folder / "data"


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
