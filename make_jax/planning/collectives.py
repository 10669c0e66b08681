"""What the chips of a compiled program send each other, read off its text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from make_jax.planning.program_text import arrays_of, computations, numbers, times_run

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COLLECTIVE = re.compile(rf"= (?P<result>.+?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_CHANNEL = re.compile(r"channel_id=(\d+)")
_SOURCE = re.compile(r'op_name="((?:[^"\\]|\\.)*)"')
_LISTED = re.compile(r"replica_groups=\{\{(.*?)\}\}")
_IOTA = re.compile(r"replica_groups=\[(?P<shape>[\d,]+)\]<=\[(?P<sizes>[\d,]+)\](?:T\((?P<order>[\d,]+)\))?")
_NAMED = re.compile(r"replica_groups=mesh\[(?P<axes>[^\]]*)\](?P<order>[^{]*)\{(?P<chosen>[^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{\{(.*?)\}\}")
_AXIS = re.compile(r"'([^']+)'(?:=(\d+))?")
_SUB_AXIS = re.compile(r"'([^']+)':\((\d+)\)(\d+)")


class Collective(NamedTuple):
    """One exchange among `group` chips, done `times` in a step.

    `type` and `shape` are those of the largest of `arrays` that go together. `bytes` is the size of all that the group
    holds afterwards, or held before; `source` says where in the model it comes from, "" where the compiler does not
    know.
    """

    kind: str
    type: str
    shape: tuple[int, ...]
    arrays: int
    bytes: int
    group: tuple[int, ...]
    times: int
    source: str

    def sent(self) -> float:
        """Bytes that each chip sends in one such exchange, by the best algorithm on a ring."""
        if self.kind == "collective-permute":
            return self.bytes
        share = 1 - 1 / len(self.group)
        if self.kind == "all-to-all":  # its result is this chip's part alone
            return share * self.bytes
        return (2 if self.kind == "all-reduce" else 1) * share * self.bytes


def read_collectives(text: str, devices: int) -> list[Collective]:
    """All exchanges of a compiled program for so many devices.

    The compiler may cut one into steps that run beside other work; these share its channel and count once.
    """
    bodies = computations(text)
    times = times_run(bodies)
    found: dict[tuple[str, str], Collective] = {}
    for name, lines in bodies.items():
        for number, line in enumerate(lines):
            if match := _COLLECTIVE.search(line):
                channel = _CHANNEL.search(line)
                key = (match["kind"], channel[1] if channel else f"{name}:{number}")
                # The TPU compiler writes a reduce-scatter as a computation of that name: an all-reduce, then a slice.
                kind = "reduce-scatter" if name.startswith("all-reduce-scatter") else match["kind"]
                read = _read(kind, match, line, devices, times.get(name, 1))
                if read is not None and (key not in found or read.bytes > found[key].bytes):
                    found[key] = read
    return list(found.values())


def _read(kind: str, match: re.Match[str], line: str, devices: int, times: int) -> Collective | None:
    arrays = arrays_of(match["result"])
    if match["start"] and kind == "all-gather":  # the result of a start is (operands, results)
        arrays = arrays[len(arrays) // 2 :]
    elif match["start"] and kind == "collective-permute":
        arrays = arrays[:1]
    if not arrays:
        return None
    group = _group(line, devices)
    if len(group) < 2:
        return None
    size = sum(array.bytes for array in arrays)
    if match["kind"] == "reduce-scatter":  # its result is this chip's part alone
        size *= len(group)
    largest = max(arrays, key=lambda array: array.bytes)
    source = _SOURCE.search(line)
    return Collective(
        kind,
        largest.type,
        largest.shape,
        len(arrays),
        size,
        group,
        times,
        source[1].replace("\\", "") if source else "",
    )


def _group(line: str, devices: int) -> tuple[int, ...]:
    """The first group of chips that exchange something among themselves."""
    if match := _LISTED.search(line):
        return numbers(match[1].split("},{")[0])
    if match := _IOTA.search(line):
        ids = np.arange(devices).reshape(numbers(match["sizes"]))
        if match["order"]:
            ids = ids.transpose(numbers(match["order"]))
        return tuple(ids.reshape(numbers(match["shape"]))[0].tolist())
    if match := _NAMED.search(line):
        return _named_group(match, devices)
    if match := _PAIRS.search(line):
        return numbers(match[1].split("},{")[0])
    return tuple(range(devices))


def _named_group(match: re.Match[str], devices: int) -> tuple[int, ...]:
    """Of a group that is written as axes of a mesh, of which parts may be chosen: {'a','b':(1)2}."""
    sizes = {name: int(size) for name, size in _AXIS.findall(match["axes"]) if size}
    parts = {name: (int(before), int(size)) for name, before, size in _SUB_AXIS.findall(match["chosen"])}
    chosen = {name for name, _ in _AXIS.findall(match["chosen"])}
    ids = np.arange(devices)
    if order := _IOTA.search(f"replica_groups=[{devices}]<={match['order'].strip(' ,').removeprefix('device_ids=')}"):
        ids = ids.reshape(numbers(order["sizes"]))
        ids = (ids.transpose(numbers(order["order"])) if order["order"] else ids).reshape(-1)
    ids = ids.reshape(tuple(sizes.values()))
    places = [
        _along(size, [parts[name]] if name in parts else [(1, size)] if name in chosen else [])
        for name, size in sizes.items()
    ]
    return tuple(ids[np.ix_(*places)].reshape(-1).tolist())


def _along(size: int, parts: Sequence[tuple[int, int]]) -> np.ndarray:
    """The positions of an axis at which all of its digits but those of the parts (before, size) are 0."""
    positions = np.arange(size)
    kept = np.zeros_like(positions)
    for before, width in parts:
        after = size // (before * width)
        kept += positions // after % width * after
    return positions[kept == positions]


def spanned(group: Sequence[int], places: Sequence[Sequence[int]]) -> int:
    """Along how many axes of the torus a group lies; places: the coordinates of every chip."""
    axes = zip(*(places[chip] for chip in group), strict=True)
    return max(1, sum(len(set(axis)) > 1 for axis in axes))
