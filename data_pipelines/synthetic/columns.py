"""Which attributes each product has, as compact columns computed from the seed and product numbers alone."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from data_pipelines.synthetic.kinds import KINDS, MAX_TRAITS
from data_pipelines.synthetic.spec import SyntheticSpec
from data_pipelines.synthetic.vocabulary import ATTRIBUTES

_U64 = np.uint64
_CHUNK = 1 << 16


@dataclass(frozen=True)
class Columns:
    """Attributes of N products.

    Attributes:
      kind: int8[N], index into `KINDS`.
      language: int8[N], index into `LANGUAGES`.
      values: int8[N, MAX_TRAITS], for each trait of the product's kind an index into the attribute's
        values; -1 past the kind's last trait.
    """

    kind: np.ndarray
    language: np.ndarray
    values: np.ndarray


def uniform(seed: int, purpose: str, ids: np.ndarray) -> np.ndarray:
    """A number in (0, 1) for each id, fixed by (seed, purpose, id): float64, shape of `ids`.

    Unlike a generator's stream this can be asked for any product, in any order and on any worker.
    """
    start = _mix(np.array([(seed + zlib.crc32(purpose.encode()) * 0x9E3779B97F4A7C15) % 2**64], _U64))
    bits = _mix(_mix(ids.astype(_U64) + start) ^ start)
    return ((bits >> _U64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: every bit of the input stirs every bit of the output."""
    z = (z ^ (z >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> _U64(27))) * _U64(0x94D049BB133111EB)
    return z ^ (z >> _U64(31))


def columns_of(spec: SyntheticSpec, ids: np.ndarray) -> Columns:
    """Attributes of the products numbered `ids` (int64[N])."""
    kind = (uniform(spec.seed, "kind", ids) * len(KINDS)).astype(np.int8)
    language = (uniform(spec.seed, "language", ids) < spec.chinese_share).astype(np.int8)
    values = np.full((len(ids), MAX_TRAITS), -1, np.int8)
    draws = [uniform(spec.seed, f"trait {slot}", ids) for slot in range(MAX_TRAITS)]
    for index, one in enumerate(KINDS):
        rows = kind == index
        for slot, trait in enumerate(one.traits):
            weights = np.array([value.weight for value in ATTRIBUTES[trait.attribute]])
            edges = np.cumsum(weights)[:-1] / weights.sum()
            values[rows, slot] = np.searchsorted(edges, draws[slot][rows], side="right")
    return Columns(kind, language, values)


def all_columns(spec: SyntheticSpec) -> Columns:
    """Attributes of the whole catalogue: 6 bytes a product, computed chunk by chunk."""
    n = spec.products
    whole = Columns(np.empty(n, np.int8), np.empty(n, np.int8), np.empty((n, MAX_TRAITS), np.int8))
    for start in range(0, n, _CHUNK):
        rows = slice(start, min(start + _CHUNK, n))
        part = columns_of(spec, np.arange(rows.start, rows.stop))
        whole.kind[rows], whole.language[rows], whole.values[rows] = part.kind, part.language, part.values
    return whole


def is_cold(spec: SyntheticSpec, ids: np.ndarray) -> np.ndarray:
    """Whether nobody ever clicks the product: bool[N]."""
    return uniform(spec.seed, "cold", ids) < spec.cold_share


def popularity(spec: SyntheticSpec, ids: np.ndarray) -> np.ndarray:
    """How much clicks favour each product: float64[N], relative.

    For u uniform, the k-th largest of N draws of u^-s is about (N/k)^s: Zipf's law without ranking anything.
    """
    return uniform(spec.seed, "popularity", ids) ** -spec.popularity_exponent
