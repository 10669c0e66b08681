"""Several hosts: real processes on one machine that share each batch and train as one would alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import FAST_COMPILE

from data_pipelines.augmentation import AugmentSpec
from data_pipelines.feed_settings import BatchShape, Sampling
from data_pipelines.input import train_batches
from data_pipelines.plans import TrainPlans
from data_pipelines.prepared import ProductData, open_data

SHAPE = BatchShape(8, 24, (32, 32), length_multiple=4)
SCRIPT = Path(__file__).with_name("host_process.py")


def train_on(hosts: int, data: Path, out: Path) -> list[dict[str, Any]]:
    """What each of so many processes, of one device each, tells of its training."""
    out.mkdir()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = str(SCRIPT.parents[2])
    environment = os.environ | {"XLA_FLAGS": FAST_COMPILE, "PYTHONPATH": root}
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(port), str(host), str(hosts), data, out],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for host in range(hosts)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=400)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [json.loads((out / f"{host}.json").read_text()) for host in range(hosts)]


@pytest.mark.slow
def test_two_processes_train_as_one_would_on_disjoint_halves(tiny_data: Path, tmp_path: Path) -> None:
    (alone,) = train_on(1, tiny_data, tmp_path / "one")
    first, second = train_on(2, tiny_data, tmp_path / "two")
    assert (alone["processes"], first["processes"], second["processes"]) == (1, 2, 2)
    for whole, *halves in zip(alone["pairs"], first["pairs"], second["pairs"], strict=True):
        for keys, *parts in zip(whole, *halves, strict=True):
            assert keys == parts[0] + parts[1]
            assert len(parts[0]) == len(parts[1]) == 8
    assert first["losses"] == second["losses"]
    np.testing.assert_allclose(first["losses"], alone["losses"], rtol=1e-5)
    assert len(set(alone["losses"])) == 3


@pytest.fixture(scope="module")
def data(tiny_data: Path) -> ProductData:
    return open_data(tiny_data)


def batches(data: ProductData, hosts: int, start: int, steps: int) -> list[dict[str, np.ndarray]]:
    """Global batches, put together from the parts of so many hosts."""
    parts = []
    for host in range(hosts):
        sampling = Sampling(16, seed=5, cold_share=0.2, recency_half_life=30.0)
        plans = TrainPlans(data, sampling, SHAPE, host, hosts)
        spec = AugmentSpec(min_scale=0.8)
        with train_batches(data, plans, start_step=start, num_steps=steps, augment=spec) as reader:
            parts.append(list(reader))
    return [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]} for step in zip(*parts, strict=True)
    ]


def test_a_run_may_go_on_with_more_hosts(data: ProductData) -> None:
    alone = batches(data, 1, 0, 6)
    moved = batches(data, 1, 0, 2) + batches(data, 2, 2, 2) + batches(data, 4, 4, 2)
    for ours, theirs in zip(moved, alone, strict=True):
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array, err_msg=name)
