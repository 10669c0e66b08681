"""Fixtures of the tests of sweeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fake_sweep import RATES, Options, write_options

from make_jax.commands.sweep import SweepOptions


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """Options of a sweep with this content, whose runs behave as told."""

    def made(content: str = RATES, behaviour: dict[str, str] | None = None, **more: Any) -> SweepOptions:
        return write_options(tmp_path, content, behaviour or {}, **more)

    return made
