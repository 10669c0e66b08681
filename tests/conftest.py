"""Fixtures shared by every test."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FASHION = Path(os.environ.get("MAKE_JAX_FASHION", Path(__file__).parents[2] / "shared" / "data" / "fashion"))


@pytest.fixture(scope="session")
def fashion_dir() -> Path:
    """The real fashion catalogue; tests that need it are skipped where it is absent."""
    if not (FASHION / "clicks.parquet").exists():
        pytest.skip(f"the fashion catalogue is not at {FASHION}; set MAKE_JAX_FASHION to its folder")
    return FASHION
