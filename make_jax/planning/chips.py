"""TPU chips, and slices of them by name.

Numbers are those of Google's own pages, docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}: peak bf16, HBM and its
bandwidth, and "bidirectional inter-chip interconnect bandwidth (per chip)", of which half goes out, shared by the two
links of each axis of the torus. The page on v4 gives the interconnect as 2400 Gbps, which is one direction.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

from make_jax.errors import UserError

_NAME = re.compile(r"(?P<chip>v\d\w?):(?P<sizes>\d+(x\d+){1,2})")
GIB = 2**30


@dataclass(frozen=True)
class Chip:
    """One chip: HBM in bytes, bf16 FLOP/s, HBM bytes/s, bytes/s sent into the interconnect, and axes of the torus."""

    name: str
    hbm: int
    flops: float
    hbm_bandwidth: float
    interconnect: float
    axes: int
    largest: int

    @property
    def axis_bandwidth(self) -> float:
        """Bytes/s that a chip sends along one axis, both ways round."""
        return self.interconnect / self.axes


CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 32 * GIB, 275e12, 1200e9, 300e9, axes=3, largest=4096),
        Chip("v5e", 16 * GIB, 197e12, 819e9, 200e9, axes=2, largest=256),
        Chip("v5p", 95 * GIB, 459e12, 2765e9, 600e9, axes=3, largest=6144),
        Chip("v6e", 32 * GIB, 918e12, 1638e9, 400e9, axes=2, largest=256),
    )
}


class Slice(NamedTuple):
    """Chips that are connected as a torus of these sizes."""

    chip: Chip
    sizes: tuple[int, ...]

    @property
    def name(self) -> str:
        """As it is asked for: "v5e:16x16"."""
        return f"{self.chip.name}:{'x'.join(map(str, self.sizes))}"

    @property
    def chips(self) -> int:
        """How many there are."""
        return math.prod(self.sizes)


def parse_slice(name: str) -> Slice:
    """The slice of a name such as "v5e:16x16" or "v5p:4x4x8"; raises UserError for what cannot be."""
    match = _NAME.fullmatch(name)
    chip = CHIPS.get(match["chip"]) if match else None
    if match is None or chip is None:
        raise UserError(
            f"--topology {name}: expected CHIP:SIZES with one of {', '.join(CHIPS)}, such as v5e:16x16 or v5p:4x4x8"
        )
    sizes = tuple(int(size) for size in match["sizes"].split("x"))
    if len(sizes) != chip.axes:
        example = "x".join(["4"] * chip.axes)
        raise UserError(
            f"--topology {name}: {chip.name} is a torus of {chip.axes} axes, not {len(sizes)}; write it as "
            f"{chip.name}:{example}"
        )
    found = Slice(chip, sizes)
    if not 1 <= found.chips <= chip.largest:
        raise UserError(
            f"--topology {name}: that is {found.chips} chips, but a slice of {chip.name} has from 1 to {chip.largest}"
        )
    return found
