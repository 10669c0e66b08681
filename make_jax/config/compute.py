"""Settings of how a model is computed, which do not change what it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from make_jax.config.checks import at_least, require


@dataclass(frozen=True)
class ComputeConfig:
    """Precision, memory and compilation of the towers; parameters, norms, softmax, pooling and losses are float32.

    `dtype` is that of activations and of what matrix products read: "bfloat16" is what TPUs and recent GPUs are built
    for, a CPU is slower with it. `remat` says what of a layer is kept for the backward pass, the rest being computed
    again: "none" keeps everything, "dots" the results of its matrix products, "full" only what goes into it.
    `attention` is "xla", or "cudnn" for NVIDIA's fused kernel (bfloat16 only). A stack of at most `unroll` layers is
    written out one by one, which runs a little faster; a higher one is a loop, which compiles in the time of one layer.
    `peak_tflops` is the peak of one device in bfloat16, by which MFU is told; 0 looks it up, and tells none where it is
    not known.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Literal["none", "dots", "full"] = "none"
    attention: Literal["xla", "cudnn"] = "xla"
    unroll: int = 4
    peak_tflops: float = 0.0

    def __post_init__(self) -> None:
        at_least("compute", 0, unroll=self.unroll, peak_tflops=self.peak_tflops)
        require(
            self.attention == "xla" or self.dtype == "bfloat16",
            f"compute.attention is {self.attention!r}, but compute.dtype is {self.dtype!r}, which its kernel does not "
            "take; set compute.dtype=bfloat16 or compute.attention=xla",
        )
