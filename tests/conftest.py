"""Fixtures shared by every test."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from browser import Browser
from hypothesis import HealthCheck, settings

# Before anything imports jax: eight fake devices, for the tests of sharding; and little optimisation, since tests
# compile much and compute little.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

# What one test, worker or started process has compiled, the others need not: a folder for this session only.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="make-jax-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.2"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

# A busy machine is no reason to fail.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

FASHION = Path(os.environ.get("MAKE_JAX_FASHION", Path(__file__).parents[2] / "shared" / "data" / "fashion"))


@pytest.fixture(scope="session")
def fashion_dir() -> Path:
    """The real fashion catalogue. Tests that need it are skipped where it is absent, unless it was promised."""
    if not (FASHION / "clicks.parquet").exists():
        _do_without(
            "MAKE_JAX_REQUIRE_FASHION", f"the fashion catalogue is not at {FASHION}; set MAKE_JAX_FASHION to its folder"
        )
    return FASHION


@pytest.fixture
def browser(tmp_path_factory: pytest.TempPathFactory) -> Browser:
    """A real browser. Tests that need it are skipped where there is none, unless it was promised."""
    chromium = shutil.which("chromium")
    if chromium is None:
        message = "chromium is not on PATH; install it (Debian: apt-get install chromium)"
        _do_without("MAKE_JAX_REQUIRE_CHROMIUM", message)
    return Browser(chromium, tmp_path_factory.mktemp("browser"))


def _do_without(promise: str, message: str) -> NoReturn:
    """Skips the test, or fails it where the environment promises what is missing."""
    if os.environ.get(promise):
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(scope="session")
def tiny_tables(tmp_path_factory: pytest.TempPathFactory):
    """A synthetic catalogue of 200 products, written as tables."""
    from data_pipelines.synthetic import SyntheticSpec, write_catalogue

    return write_catalogue(
        SyntheticSpec(products=200, dev_queries=20, image_size=(32, 32)), tmp_path_factory.mktemp("tiny") / "tables"
    )


@pytest.fixture(scope="session")
def tiny_data(tiny_tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, prepared."""
    from data_pipelines.prepare import prepare

    out = tmp_path_factory.mktemp("tiny_data") / "data"
    prepare(
        products=tiny_tables.products,
        interactions=str(tiny_tables.interactions),
        queries=str(tiny_tables.queries),
        qrels=str(tiny_tables.qrels),
        out=out,
        progress=False,
    )
    return out


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A real file system of so many bytes, where this process may mount one; a second call resizes it."""
    folder = tmp_path / "small"
    folder.mkdir()

    def sized(size: int) -> Path:
        options = f"{'remount,' if folder.is_mount() else ''}size={size}"
        if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
            pytest.skip("mounting a file system is not allowed here")
        return folder

    yield sized
    if folder.is_mount():
        subprocess.run(["umount", folder], check=True)
