"""A compiled program's text: its computations, how often each is run, and the arrays that a line names."""

from __future__ import annotations

import re
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .* \{$")
_ARRAY = re.compile(r"\b(?P<type>pred|[a-z]+\d+\w*)\[(?P<sizes>[\d,]*)\](?:\{(?P<layout>[^}]*)\})?")
_WHILE = re.compile(r" while\(.*condition=%?(?P<condition>[\w.\-]+), body=%?(?P<body>[\w.\-]+)")
_NUMBER = re.compile(r"= s32\[\]\S* constant\((\d+)\)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_CALLED = re.compile(
    r"(?:calls|to_apply|body|condition)=%?([\w.\-]+)|(?:called_computations|branch_computations)=\{(.*?)\}"
)


class Array(NamedTuple):
    """One array of a type as it is written; `near` is whether it lies in the chip's own memory, beside its cores."""

    type: str
    shape: tuple[int, ...]
    near: bool

    @property
    def bytes(self) -> int:
        """Without padding; an entry of a few bits counts as a byte."""
        bits = re.search(r"\d+", self.type)
        size = max(1, int(bits[0]) // 8) if bits else 1
        for length in self.shape:
            size *= length
        return size


def arrays_of(text: str) -> list[Array]:
    """The arrays of a type, a tuple's in turn."""
    return [
        Array(found["type"], numbers(found["sizes"]), re.search(r"S\([1-9]\d*\)", found["layout"] or "") is not None)
        for found in _ARRAY.finditer(text)
    ]


def numbers(text: str) -> tuple[int, ...]:
    """Those between commas."""
    return tuple(int(number) for number in text.split(",") if number)


def computations(text: str) -> dict[str, list[str]]:
    """The lines of each computation."""
    bodies: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            lines = bodies.setdefault(match["name"], [])
        else:
            lines.append(line)
    return bodies


def called_by(line: str) -> list[str]:
    """The computations that a line names."""
    found = _CALLED.findall(line)
    return [called for one, several in found for called in ([one] if one else re.findall(r"[\w.\-]+", several))]


def times_run(bodies: dict[str, list[str]]) -> dict[str, int]:
    """How often each computation is run: once for each turn of the loops around it."""
    callers: dict[str, tuple[str, int]] = {}
    for name, lines in bodies.items():
        for line in lines:
            loop = _WHILE.search(line)
            for called in called_by(line):
                turns = _turns(line, loop["condition"], bodies) if loop and called == loop["body"] else 1
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


def _turns(line: str, condition: str, bodies: dict[str, list[str]]) -> int:
    """How often a loop turns: as the compiler says, or the number that its condition compares with."""
    if trips := _TRIPS.search(line):
        return int(trips[1])
    asked = bodies.get(condition, [])
    asked = asked + [inner for one in asked for called in called_by(one) for inner in bodies.get(called, [])]
    return max((int(number) for one in asked for number in _NUMBER.findall(one)), default=1)
