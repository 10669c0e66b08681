"""A tiny catalogue taken through training, embedding and indexing once, for all tests of whole commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import TINY, call, spawn


@pytest.fixture(scope="session")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, undisturbed, in a process with one device."""
    run = tmp_path_factory.mktemp("trained") / "run"
    process = spawn("train", TINY, "--data", tiny_data, "--workdir", run)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return run


@pytest.fixture(scope="session")
def embedded(trained: Path, tiny_tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedded") / "products.parquet"
    result = call("embed", "--run", trained, "--products", tiny_tables.products, "--out", out)
    assert result.exit_code == 0, result.output
    return out


@pytest.fixture(scope="session")
def indexed(embedded: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("indexed") / "index"
    result = call("index", "--embeddings", embedded, "--out", out)
    assert result.exit_code == 0, result.output
    assert "recall@10" in result.output
    return out
