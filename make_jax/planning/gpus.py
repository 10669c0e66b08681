"""NVIDIA GPUs by the name that CUDA gives them, and how fast they multiply.

Peaks are those of NVIDIA's data sheets of the A100 (2020), H100 (2024) and H200 (2024): dense bf16, which is half of
what they print for sparse matrices.
"""

from __future__ import annotations

# Of two that fit, the longer one counts: PCIe and NVL have their own clocks.
_BF16_FLOPS = {
    "A100": 312e12,
    "H100": 989.5e12,
    "H100 NVL": 835.5e12,
    "H100 PCIe": 756.5e12,
    "H200": 989.5e12,
    "H200 NVL": 835.5e12,
}


def bf16_flops(device_kind: str) -> float | None:
    """FLOP/s at most of a device such as "NVIDIA H100 80GB HBM3"; None where that is not known here."""
    words = set(device_kind.replace("-", " ").split())
    fitting = [name for name in _BF16_FLOPS if words.issuperset(name.split())]
    return _BF16_FLOPS[max(fitting, key=len)] if fitting else None
