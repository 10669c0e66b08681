"""MFU: the share of the devices' peak that a model's own FLOPs reach (Chowdhery et al. 2022, PaLM, appendix B)."""

from __future__ import annotations

from collections.abc import Mapping

import jax

from make_jax.model import RetrievalModel
from make_jax.planning.chips import CHIPS
from make_jax.planning.gpus import bf16_flops
from make_jax.training.flops import model_flops

# As jax names them; "lite" are the chips of an e.
_TPUS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}


def peak_flops(device_kind: str) -> float | None:
    """bf16 FLOP/s at most of a device such as "TPU v5 lite"; None where that is not known here."""
    return CHIPS[_TPUS[device_kind]].flops if device_kind in _TPUS else bf16_flops(device_kind)


class Utilisation:
    """Counts what a model's batches take; without a known peak it counts nothing.

    Batches of another length take another time, so each shape is counted by itself, once.
    """

    def __init__(self, model: RetrievalModel, peak: float | None) -> None:
        """Has counted nothing; `peak`: FLOP/s of one device."""
        self._model, self._peak = model, peak
        self._known: dict[tuple[tuple[str, tuple[int, ...]], ...], int] = {}
        self._counted = 0

    def add(self, batch: Mapping[str, jax.Array]) -> None:
        """Count a global batch."""
        if self._peak is None:
            return
        shape = tuple((name, array.shape) for name, array in sorted(batch.items()))
        if shape not in self._known:
            shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}
            self._known[shape] = model_flops(self._model, shapes)
        self._counted += self._known[shape]

    def take(self, seconds: float) -> dict[str, float]:
        """`mfu` of all devices since the last time, which took so long; {} without a known peak."""
        if self._peak is None:
            return {}
        counted, self._counted = self._counted, 0
        return {"mfu": counted / (seconds * self._peak * jax.device_count())}
