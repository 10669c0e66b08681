"""A machine with JAX but without TensorFlow trains on a cache, and learns the same."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import FAST_COMPILE, TINY, call, losses

ABSENT = ("tensorflow", "tensorflow_datasets", "scann", "array_record", "transformers")
SIDE = ("model.side.columns=category,product_id", "model.side.buckets=64")
SETTINGS = ("training.steps=3", "data.crop=1", "data.cold_share=0.2", *SIDE)


def train(data: Path, run: Path, *paths: Path) -> dict[int, float]:
    """Trains in a process of its own, which imports from further folders first; the losses of its steps."""
    environment = os.environ | {
        "XLA_FLAGS": FAST_COMPILE,
        "PYTHONPATH": os.pathsep.join(map(str, [*paths, Path(__file__).parents[2]])),
    }
    settings = [part for setting in SETTINGS for part in ("--set", setting)]
    command = [sys.executable, "-m", "make_jax", "train", TINY, "--data", data, "--workdir", run, *settings]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    return losses(run)


def write_stubs(folder: Path) -> None:
    """Modules that cannot be imported, in place of those that such a machine lacks."""
    folder.mkdir()
    for module in ABSENT:
        (folder / f"{module}.py").write_text(f"raise ImportError('{module} is not installed here')\n")


@pytest.mark.slow
def test_training_on_a_cache_needs_no_tensorflow(tiny_data: Path, tmp_path: Path) -> None:
    cache, absent = tmp_path / "cache", tmp_path / "absent"
    made = call("data", "cache", tiny_data, "--out", cache, "--experiment", TINY)
    assert made.exit_code == 0, made.output
    write_stubs(absent)
    without = train(cache, tmp_path / "without", absent)
    assert list(without) == [1, 2, 3]
    assert without == train(tiny_data, tmp_path / "with")
    ours, theirs = (tmp_path / run / "model.safetensors" for run in ("without", "with"))
    assert ours.read_bytes() == theirs.read_bytes()


def test_prepared_data_cannot_be_read_without_tensorflow(tiny_data: Path, tmp_path: Path) -> None:
    """So the test above tests what it says."""
    write_stubs(tmp_path / "absent")
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, [tmp_path / "absent", Path(__file__).parents[2]]))
    }
    code = "import sys; from data_pipelines.prepared import open_data; open_data(sys.argv[1])"
    ended = subprocess.run(
        [sys.executable, "-c", code, tiny_data], env=environment, capture_output=True, text=True, check=False
    )
    assert "is not installed here" in ended.stderr
