"""Peaks of GPUs are found by the names that CUDA gives them."""

from __future__ import annotations

import pytest

from make_jax.planning.gpus import bf16_flops


@pytest.mark.parametrize(
    ("name", "tera"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("NVIDIA GeForce RTX 3090", None),
        ("cpu", None),
    ],
)
def test_names_are_known(name: str, tera: float | None) -> None:
    assert bf16_flops(name) == (tera and tera * 1e12)
