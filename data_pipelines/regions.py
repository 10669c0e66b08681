"""Pre-computed region features, which a catalogue may hold in place of pictures: are they sound?"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

MAX_REGIONS = 100
MAX_WIDTH = 8192
REASON = "bad_regions"


class CheckedRegions(NamedTuple):
    """The float16 matrix [R, F] of a product in C order and its F (b"" and 0 for none), or what is wrong with it."""

    encoded: bytes = b""
    width: int = 0
    detail: str = ""


def check_regions(cell: pa.ListScalar) -> CheckedRegions:
    """Turns one cell of the column `regions`, list<list<float32>>, into bytes; null and [] are no regions.

    Wrong are more than 100 regions, rows that differ in length or are wider than 8,192, and values that float16 does
    not hold: missing, infinite, not a number, or beyond 65,504.
    """
    rows = cell.values
    if rows is None or len(rows) == 0:
        return CheckedRegions()
    if len(rows) > MAX_REGIONS:
        return CheckedRegions(detail=f"{len(rows)} regions, at most {MAX_REGIONS} are allowed")
    widths = [width or 0 for width in rows.value_lengths().to_pylist()]
    if min(widths) != max(widths):
        return CheckedRegions(detail=f"the regions have {min(widths)} to {max(widths)} values; all need equally many")
    width = widths[0]
    if not 1 <= width <= MAX_WIDTH:
        return CheckedRegions(detail=f"each region has {width} values; 1 to {MAX_WIDTH} are allowed")
    with np.errstate(over="ignore"):
        values = rows.flatten().to_numpy(zero_copy_only=False).astype(np.float16)
    unsound = np.flatnonzero(~np.isfinite(values))
    if unsound.size:
        region, place = divmod(int(unsound[0]), width)
        return CheckedRegions(
            detail=f"value {place + 1} of region {region + 1} is missing, not finite or beyond the 65,504 of float16"
        )
    return CheckedRegions(values.tobytes(), width)
