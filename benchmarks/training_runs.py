"""Training runs as processes of their own, for benchmarks that start, watch and kill them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TINY = ROOT / "experiments" / "tiny.py"
FAST_COMPILE = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"


@dataclass(frozen=True)
class Setup:
    """What all runs of a call share: prepared data, and a folder for them and for what they print."""

    data: Path
    workdir: Path

    def start(self, run: Path, *settings: str, devices: int = 1) -> subprocess.Popen[bytes]:
        flags = f"{FAST_COMPILE} --xla_force_host_platform_device_count={devices}"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        # Every start compiles the same.
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", str(self.workdir / "compiled"))
        environment.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        options = [part for setting in settings for part in ("--set", setting)]
        train = [sys.executable, "-m", "make_jax", "train", str(TINY), "--data", str(self.data)]
        with self._log(run).open("w") as log:  # nobody reads along, and a pipe would fill up
            return subprocess.Popen(
                [*train, "--workdir", str(run), *options], stdout=log, stderr=subprocess.STDOUT, env=environment
            )

    def ended(self, process: subprocess.Popen[bytes], run: Path, *codes: int) -> str:
        """What a process printed, once it has ended with one of the codes expected, 0 if none is named."""
        code, printed = process.wait(), self._log(run).read_text()
        if code not in (codes or (0,)):
            raise RuntimeError(f"{run} ended with exit code {code}:\n{printed}")
        return printed

    def finish(self, run: Path, *settings: str, devices: int = 1) -> None:
        """Run to the end."""
        self.ended(self.start(run, *settings, devices=devices), run)

    def _log(self, run: Path) -> Path:
        return self.workdir / f"{run.name}.log"


def wait(process: subprocess.Popen[bytes], holds: Callable[[], bool]) -> None:
    """Until something holds, or the process has ended."""
    while not holds() and process.poll() is None:
        time.sleep(0.002)


def in_checkpoints(run: Path, pattern: str) -> list[Path]:
    """What a run has beside each other in the folder of its checkpoints."""
    return list((run / "checkpoints").glob(pattern))


def last_step(run: Path) -> int:
    """The last step that `metrics.jsonl` tells of, read off its end; 0 if there is none."""
    try:
        with (run / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            found = re.findall(rb'"step": (\d+)', file.read())
    except OSError:
        return 0
    return int(found[-1]) if found else 0


def has_done(run: Path, step: int) -> bool:
    """Whether `metrics.jsonl` tells of a step."""
    return last_step(run) >= step


def unsound(run: Path) -> int:
    """How many of its checkpoints cannot be read back."""
    from make_jax.training.checkpoint_files import saved_steps
    from make_jax.training.checkpoints import damage

    folder = run / "checkpoints"
    return sum(damage(folder / str(step)) is not None for step in saved_steps(folder))


def files_below(folder: Path) -> list[Path]:
    """All of them."""
    return [path for path in folder.rglob("*") if path.is_file()]


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path | None]:
    """A file system of so many bytes; None where this process may not mount one."""
    folder.mkdir()
    mounted = mount(folder, f"size={size}")
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


def mount(folder: Path, options: str) -> bool:
    """Mount a file system in memory, or change it; whether that was allowed."""
    return subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode == 0


def resident(process: int) -> float | None:
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
