"""The walls between the parts, read off the source: who may import whom."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOREIGN = {
    "orbax": {"make_jax/training/checkpoints.py"},
    "bm25s": {"make_jax/retrieval/bm25.py"},
    "scann": {"make_jax/retrieval/scann_backend.py"},
    "transformers": {"data_pipelines/tokenizer.py"},
    "tokenizers": {"data_pipelines/tokenizer.py", "data_pipelines/tokenizer_training.py"},
    "wandb": {"make_jax/training/wandb_board.py"},
    "tensorflow": {"data_pipelines/host_tensorflow.py"},
}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def sources(folder: str) -> list[Path]:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert files
    return files


@pytest.mark.parametrize(
    "file", sources("make_jax") + sources("data_pipelines"), ids=lambda f: str(f.relative_to(ROOT))
)
def test_each_foreign_api_has_one_place(file: Path) -> None:
    name = file.relative_to(ROOT).as_posix()
    for package, places in FOREIGN.items():
        if any(module.split(".")[0] == package for module in imports(file)):
            assert name in places, f"{name} imports {package}; that belongs in {places}"


@pytest.mark.parametrize("file", sources("data_pipelines"), ids=lambda f: f.stem)
def test_data_pipelines_do_not_know_the_library(file: Path) -> None:
    assert not [module for module in imports(file) if module.split(".")[0] in ("make_jax", "experiments")]


@pytest.mark.parametrize("folder", ["make_jax/model", "make_jax/objectives"])
def test_models_and_objectives_are_pure(folder: str) -> None:
    allowed = {"make_jax.model", "make_jax.objectives", "make_jax.config", "make_jax.errors"}
    standard = {"collections", "dataclasses", "functools", "math", "typing", "__future__"}
    libraries = {"jax", "flax", "numpy", *standard}
    for file in sources(folder):
        for module in imports(file):
            assert module.split(".")[0] in libraries or ".".join(module.split(".")[:2]) in allowed, (file, module)


@pytest.mark.parametrize("folder", ["make_jax/retrieval"])
def test_retrieval_does_not_need_the_trainer(folder: str) -> None:
    for file in sources(folder):
        assert not [
            m for m in imports(file) if m.startswith(("make_jax.training", "make_jax.commands", "make_jax.cli"))
        ]


def test_nothing_is_pickled() -> None:
    for file in sources("make_jax") + sources("data_pipelines"):
        assert not imports(file) & {"pickle", "cloudpickle", "dill", "joblib", "shelve"}, file


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from make_jax.cli import main\n"
        "result = CliRunner().invoke(main, ['--help']); assert result.exit_code == 0, result.output\n"
        "print([m for m in ('jax', 'tensorflow', 'scann', 'transformers', 'matplotlib', 'pandas', 'numpy')"
        " if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_model_trains_without_tensorflow() -> None:
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'scann', 'tensorflow_datasets', 'transformers'): sys.modules[name] = None\n"
        "import make_jax.model, make_jax.training.loop, make_jax.objectives.contrastive\n"
        "import make_jax.retrieval.metrics, make_jax.retrieval.exact, make_jax.retrieval.index\n"
        "import make_jax.commands.train, data_pipelines.input, data_pipelines.cache\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
