"""make-jax plan, compiled for a TPU where libtpu is installed and on the CPU everywhere."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
from typing import Any

import pytest
from command_line import TINY, call, refused

from make_jax.commands import plan as planning


@pytest.fixture
def libtpu() -> None:
    """Tests that need the TPU compiler are skipped where there is none, unless it was promised."""
    if importlib.util.find_spec("libtpu") is None:
        message = "libtpu is not installed; pip install 'make_jax[tpu]'"
        if os.environ.get("MAKE_JAX_REQUIRE_LIBTPU"):
            pytest.fail(message)
        pytest.skip(message)


# Of towers that are alike, one is enough.
TITLES = ("--set", "model.modalities=title", "--set", "objectives.query_image=0", "--vocab-size", 64)


@pytest.mark.usefixtures("libtpu")
def test_a_small_slice_is_compiled_for_and_compared() -> None:
    options = ("--topology", "v5e:2x2", "--compare", "mesh.fsdp=4", "--pairs", 10**9, "--json")
    result = call("plan", TINY, *TITLES, *options)
    assert result.exit_code == 0, result.output
    first, second = json.loads(result.stdout)
    assert (first["label"], second["label"]) == ("v5e:2x2", "v5e:2x2 mesh.fsdp=4")
    assert not first["rough"]
    assert (first["mesh"]["data"], second["mesh"]["fsdp"]) == (4, 4)
    assert second["state_bytes"] < 0.5 * first["state_bytes"]
    for found in (first, second):
        assert found["train"]["fits"]
        assert 0 < found["train"]["needed"] < found["train"]["limit"] == 16 * 2**30
        assert found["model_flops"] / 4 < 1.2 * found["train"]["flops"]
        assert found["at_best"]["examples"] > 0
        assert found["at_best"]["days"] > 0
    kinds = {exchange["kind"] for exchange in first["train"]["exchanges"]}
    assert "all-reduce" in kinds
    gathered = [e for e in second["train"]["exchanges"] if e["source"].startswith("parameter ")]
    assert gathered


def test_without_libtpu_a_plan_is_rough(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))
    result = call("plan", TINY, *TITLES, "--topology", "v4:2x2x1", "--set", "mesh.fsdp=2")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("rough: libtpu is not installed")
    assert any(line.startswith("mesh data × fsdp × tensor") and line.endswith("2 × 2 × 1") for line in lines)
    assert any("all-reduce" in line for line in lines)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("--topology", "v5e:3"), ("v5e:3", "CHIP:SIZES")),
        (("--topology", "v7x:2x2"), ("v7x:2x2", "v4, v5e, v5p, v6e")),
        (("--topology", "v5e:16x16"), ("training.batch_size 16", "256")),
        (("--topology", "v5e:2x2", "--compare", "mesh.data=3"), ("mesh.data 3", "4 devices")),
        (("--topology", "v5e:2x2", "--compare", "v5e:2x4,v4:2x2x1"), ("names 2 slices",)),
        (("--topology", "v5e:2x2", "--compare", "mesh.fsd=2"), ("mesh.fsd", "did you mean mesh.fsdp")),
    ],
)
def test_what_cannot_be_planned_is_refused(arguments: tuple[str, ...], parts: tuple[str, ...]) -> None:
    refused(call("plan", TINY, "--vocab-size", 64, *arguments), *parts)


def test_the_vocabulary_must_be_known() -> None:
    refused(call("plan", TINY, "--topology", "v5e:2x2"), "--vocab-size")


@pytest.mark.usefixtures("libtpu")
def test_a_slice_that_the_compiler_does_not_know_is_refused() -> None:
    options = ("--topology", "v5e:3x5", "--vocab-size", 64, "--set", "training.batch_size=30")
    refused(call("plan", TINY, *options), "v5e:3x5", "no such slice")


def test_what_was_compiled_before_a_compiler_died_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    find, run = importlib.util.find_spec, subprocess.run
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "libtpu" else find(name))

    def of_the_first(*command: Any, input: str, **options: Any) -> subprocess.CompletedProcess[str]:
        done = run(*command, input=json.dumps(json.loads(input)[:1]), **options)
        return subprocess.CompletedProcess([], -11, done.stdout, "out of luck")

    monkeypatch.setattr(planning.subprocess, "run", of_the_first)
    result = call("plan", TINY, *TITLES, "--topology", "v4:2x2x1", "--compare", "mesh.fsdp=2", "--json")
    assert result.exit_code == 1
    assert [found["label"] for found in json.loads(result.stdout)] == ["v4:2x2x1"]
    assert "v4:2x2x1 mesh.fsdp=2: the compiler ended with code -11" in result.stderr


def test_a_compiler_that_dies_says_what_it_said(monkeypatch: pytest.MonkeyPatch) -> None:
    died = subprocess.CompletedProcess([], -6, stdout="", stderr="Fatal: no such luck\n")
    monkeypatch.setattr(planning.subprocess, "run", lambda *_, **__: died)
    result = call("plan", TINY, "--topology", "v5e:2x2", "--vocab-size", 64)
    assert result.exit_code == 1
    assert "code -6" in result.stderr
    assert "no such luck" in result.stderr
