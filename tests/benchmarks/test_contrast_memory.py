"""The benchmark of the contrast's memory runs, draws and says what it should."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_chunks_are_compared_with_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import contrast_memory

    figure, file = tmp_path / "figure.svg", tmp_path / "rows.json"
    sizes = ["--batches", "256,1024", "--chunk-size", "16", "--embedding", "8"]
    done = CliRunner().invoke(
        contrast_memory.main, [*sizes, "--plot", str(figure), "--json", str(file)], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    assert "batch 1,024, chunks of 16" in done.output
    small, large, growth = json.loads(file.read_text())
    assert large["ratio"] < small["ratio"] < 1
    assert growth["ratio"] < 1.1
    assert "all at once" in figure.read_text()
