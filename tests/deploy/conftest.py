"""Fixtures of the tests of scripts."""

from __future__ import annotations

from pathlib import Path

import pytest
from programs import Programs


@pytest.fixture
def programs(tmp_path: Path) -> Programs:
    """No stand-ins yet."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return Programs(folder)
