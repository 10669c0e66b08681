"""What the chips of a compiled program send each other, read off its text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .* \{$")
_COLLECTIVE = re.compile(rf"= (?P<result>.+?) (?P<kind>{'|'.join(KINDS)})(?P<start>-start)?\(")
_ARRAY = re.compile(r"\b(?P<type>pred|[a-z]+\d+\w*)\[(?P<sizes>[\d,]*)\]")
_WHILE = re.compile(r" while\(.*body=%?(?P<body>[\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)|(?:called_computations|branch_computations)=\{(.*?)\}"
)
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
    bodies = _computations(text)
    times = _times(bodies)
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


def _computations(text: str) -> dict[str, list[str]]:
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = bodies.setdefault(match["name"], [])
        else:
            lines.append(line)
    return bodies


def _times(bodies: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation is run: once for each turn of the loops around it."""
    callers: dict[str, tuple[str, int]] = {}
    for name, lines in bodies.items():
        for line in lines:
            loop, trips = _WHILE.search(line), _TRIPS.search(line)
            for one, several in _CALLED.findall(line):
                for called in [one] if one else re.findall(r"[\w.\-]+", several):
                    turns = int(trips[1]) if loop and trips and called == loop["body"] else 1
                    callers[called] = name, max(turns, callers.get(called, ("", 1))[1])
    found = {}
    for name in bodies:
        total, at, seen = 1, name, set()
        while at in callers and at not in seen:
            seen.add(at)
            at, turns = callers[at]
            total *= turns
        found[name] = total
    return found


def _read(kind: str, match: re.Match[str], line: str, devices: int, times: int) -> Collective | None:
    arrays = [(found["type"], _numbers(found["sizes"])) for found in _ARRAY.finditer(match["result"])]
    if match["start"] and kind == "all-gather":  # the result of a start is (operands, results)
        arrays = arrays[len(arrays) // 2 :]
    elif match["start"] and kind == "collective-permute":
        arrays = arrays[:1]
    if not arrays:
        return None
    group = _group(line, devices)
    if len(group) < 2:
        return None
    size = sum(_width(kind_of) * math.prod(shape) for kind_of, shape in arrays)
    if match["kind"] == "reduce-scatter":  # its result is this chip's part alone
        size *= len(group)
    largest = max(arrays, key=lambda array: _width(array[0]) * math.prod(array[1]))
    source = _SOURCE.search(line)
    return Collective(kind, *largest, len(arrays), size, group, times, source[1].replace("\\", "") if source else "")


def _group(line: str, devices: int) -> tuple[int, ...]:
    """The first group of chips that exchange something among themselves."""
    if match := _LISTED.search(line):
        return _numbers(match[1].split("},{")[0])
    if match := _IOTA.search(line):
        ids = np.arange(devices).reshape(_numbers(match["sizes"]))
        if match["order"]:
            ids = ids.transpose(_numbers(match["order"]))
        return tuple(ids.reshape(_numbers(match["shape"]))[0].tolist())
    if match := _NAMED.search(line):
        return _named_group(match, devices)
    if match := _PAIRS.search(line):
        return _numbers(match[1].split("},{")[0])
    return tuple(range(devices))


def _named_group(match: re.Match[str], devices: int) -> tuple[int, ...]:
    """Of a group that is written as axes of a mesh, of which parts may be chosen: {'a','b':(1)2}."""
    sizes = {name: int(size) for name, size in _AXIS.findall(match["axes"]) if size}
    parts = {name: (int(before), int(size)) for name, before, size in _SUB_AXIS.findall(match["chosen"])}
    chosen = {name for name, _ in _AXIS.findall(match["chosen"])}
    ids = np.arange(devices)
    if order := _IOTA.search(f"replica_groups=[{devices}]<={match['order'].strip(' ,').removeprefix('device_ids=')}"):
        ids = ids.reshape(_numbers(order["sizes"]))
        ids = (ids.transpose(_numbers(order["order"])) if order["order"] else ids).reshape(-1)
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


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _width(kind: str) -> int:
    """Bytes of an entry; a few bits count as a byte."""
    bits = re.search(r"\d+", kind)
    return max(1, int(bits[0]) // 8) if bits else 1


def spanned(group: Sequence[int], places: Sequence[Sequence[int]]) -> int:
    """Along how many axes of the torus a group lies; places: the coordinates of every chip."""
    axes = zip(*(places[chip] for chip in group), strict=True)
    return max(1, sum(len(set(axis)) > 1 for axis in axes))
