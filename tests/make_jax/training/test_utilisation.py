"""MFU from known peaks and counted products."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import pytest

from make_jax.training.utilisation import Utilisation, peak_flops


class Multiplies:
    """A model whose loss is one product of [B, 3] and [3, 5]."""

    def init(self, rng: jax.Array) -> Any:
        return jnp.zeros((3, 5))

    def init_memory(self) -> Any:
        return ()

    def losses(self, params: Any, memory: Any, batch: Any, rng: jax.Array) -> Any:
        return jnp.sum(batch["rows"] @ params), ({}, ())


@pytest.mark.parametrize(
    ("kind", "tera"), [("TPU v5 lite", 197), ("TPU v5", 459), ("TPU v6e", 918), ("NVIDIA H200", 989.5), ("cpu", None)]
)
def test_peaks_are_found_by_name(kind: str, tera: float | None) -> None:
    assert peak_flops(kind) == (tera and tera * 1e12)


def test_each_batch_counts_by_its_shape() -> None:
    found = Utilisation(Multiplies(), 1000.0)  # type: ignore[arg-type]
    for rows in (4, 4, 10):
        found.add({"rows": jnp.zeros((rows, 3))})
    flops = 3 * 2 * 3 * 5 * (4 + 4 + 10)
    assert found.take(7.0) == {"mfu": pytest.approx(flops / (7 * 1000 * jax.device_count()))}
    assert found.take(7.0) == {"mfu": 0}


def test_without_a_peak_there_is_none() -> None:
    found = Utilisation(Multiplies(), None)  # type: ignore[arg-type]
    found.add({"rows": jnp.zeros((4, 3))})
    assert found.take(1.0) == {}
