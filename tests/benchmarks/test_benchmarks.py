"""Benchmarks run and say what they should; how fast things are is for the machine they are meant for."""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from data_pipelines.decode import decode_pictures

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)


def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[str, list[dict[str, Any]]]:
    """Runs the benchmark, all but the contestants in this process; returns what it prints and what it writes."""
    import input_pipeline

    monkeypatch.setattr(input_pipeline, "in_new_process", lambda function, *args: function(*args))
    file = tmp_path / "results.json"
    done = CliRunner().invoke(
        input_pipeline.main, ["--json", str(file), "--workdir", str(tmp_path), *arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert not list(tmp_path.glob("benchmark-*"))
    return done.output, json.loads(file.read_text())


@pytest.mark.slow
def test_speed_is_compared_with_every_rival_that_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = ("--seconds", "0.01", "--rounds", "1", "--sizes", "30x40:32x40", "--pictures", "24", "--batch-size", "4")
    printed, results = run(tmp_path, monkeypatch, *tiny)
    races = [result["against"] for result in results if result["unit"] == "pictures/s"]
    for package, name in (("torch", "torch"), ("grain", "Grain")):
        installed = find_spec(package) is not None
        assert any(against.startswith(name) for against in races) == installed
        assert (f"{package} is not installed" in printed) != installed
    assert races[0].startswith("tf.data")
    resumed = [result for result in results if "step 1,000,000" in result["name"]]
    assert [result["against"] for result in resumed] == ["first batch at step 0", "5 s"]
    for result in results:
        keys = {"name", "value", "unit", "against", "ratio", "command", "commit", "hardware"}
        assert result.keys() == keys
        assert result["ratio"] > 0
        assert result["value"] > 0
        assert result["name"] in printed
        assert result["command"].startswith("python benchmarks/")


def test_memory_is_measured_for_both_forms_of_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    printed, results = run(tmp_path, monkeypatch, "--memory", "--products", "400", "--steps", "60")
    assert [result["name"].split(",")[1].strip() for result in results] == ["array_record", "tfrecord"]
    assert printed.count("per 1,000 steps after step") == 2
    assert all(result["unit"] == "MiB" and result["value"] > 10 for result in results)


def test_sizes_that_are_none_are_refused() -> None:
    command = [sys.executable, str(FOLDER / "input_pipeline.py"), "--sizes", "60x80"]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert "'60x80' is not of the form 60x80:64x80" in done.stderr


def test_a_new_process_is_another_one() -> None:
    from harness import in_new_process

    assert in_new_process(os.getpid) != os.getpid()


def test_contestants_take_turns_in_processes_of_their_own() -> None:
    from harness import race

    naps = partial(map, time.sleep, itertools.repeat(0.002))
    speeds = race({"count": itertools.count, "nap": naps}, rounds=2, seconds=0.01)
    assert [len(speed) for speed in speeds.values()] == [2, 2]
    assert (speeds["nap"] <= 500).all()
    assert (speeds["count"] > 0).all()


def test_a_contestant_that_stops_is_named() -> None:
    from harness import race

    with pytest.raises(RuntimeError, match="the lame one stopped"):
        race({"the lame one": partial(iter, ())}, rounds=1, seconds=0.01)


def test_targets_are_bounds_on_the_ratio() -> None:
    from harness import Row

    assert Row("speed", 9, "/s", "theirs", 0.9, 0.9).reached
    assert not Row("speed", 8, "/s", "theirs", 0.89, 0.9).reached
    assert Row("time", 8, "s", "theirs", 0.9, 0.9, more_is_better=False).reached
    assert not Row("time", 9, "s", "theirs", 0.91, 0.9, more_is_better=False).reached


@pytest.mark.parametrize(("growth", "flat"), [(0.0, True), (0.5, False)])
def test_growing_memory_is_told_from_flat(growth: float, flat: bool) -> None:
    from memory import MemoryUse

    steps = np.arange(0, 2001, 50)
    filling = 400 * np.minimum(steps / 150, 1)  # buffers
    use = MemoryUse(steps, 600 + filling + growth * steps, np.full(len(steps), 100.0))
    row = use.row("memory")
    assert row.reached == flat
    assert row.value == pytest.approx(1100 + growth * 1850)
    assert f"{1000 * growth:+.1f} MiB per 1,000 steps after step 250" in use.describe()
    assert use.describe().startswith("700 MiB before the first batch")


@pytest.mark.parametrize("size", [(60, 80), (210, 330), (300, 200)])
def test_rivals_make_the_pictures_that_ours_makes(tmp_path: Path, size: tuple[int, int]) -> None:
    from contestants import PillowExamples, Task, raw_groups, raw_pictures

    rows, columns = np.indices((size[1], size[0])) / 40
    waves = 127 + 60 * np.sin(rows + np.arange(3)[:, None, None]) + 60 * np.cos(columns)
    buffer = io.BytesIO()
    Image.fromarray(waves.transpose(1, 2, 0).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    (tmp_path / "tables").mkdir()
    pq.write_table(pa.table({"image": [buffer.getvalue()]}), tmp_path / "tables" / "products-0.parquet")
    np.savez(tmp_path / "tokens.npz", query_ids=np.array([[2, 7, 3]]), title_ids=np.array([[2, 8, 9, 3]]))
    task = Task(tmp_path, height=80, width=64, batch_size=1)
    [ours], bad = decode_pictures([buffer.getvalue()], 80, 64)
    assert not bad
    for draft in (False, True):
        examples = PillowExamples(task, draft)
        assert len(examples) == 1
        assert examples[0]["query_ids"].tolist() == [2, 7, 3]
        assert examples[0]["image"].shape == ours.shape
        assert np.abs(examples[0]["image"].astype(int) - ours).mean() < 1.5
    assert np.abs(next(raw_pictures(task))[0].numpy().astype(int) - ours).mean() < 1.5
    assert np.array_equal(next(raw_groups(task))[0, 0], ours)
