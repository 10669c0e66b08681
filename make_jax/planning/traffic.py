"""The bytes that a compiled program moves between a chip and its HBM, read off its text.

The compiler's own count takes a loop for one turn, and arrays that stay beside the cores for arrays in HBM.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from make_jax.planning.program_text import Array, arrays_of, called_by, computations, times_run

_LINE = re.compile(r"^\s*(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>\(.*?\)|\S+) (?P<op>[\w\-]+)\((?P<rest>.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
# What moves nothing, or is counted where it is done: inside a loop, or at the start of what runs beside other work.
_NAMES = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "partition-id", "replica-id"}
_FREE = _NAMES | {"while", "conditional", "call", "async-start", "opt-barrier", "add-dependency", "iota"}
_ALLOCATES = 'custom_call_target="AllocateBuffer"'  # room, that a loop fills
_CUTS = {"dynamic-slice", "slice", "gather"}
_RUNS_ITS_OWN = re.compile(r"\b(?:while|conditional|call|async-start)\(")


class _Operation(NamedTuple):
    name: str
    op: str
    result: list[Array]
    operands: list[str]
    line: str
    root: bool


class _Body:
    """The operations of a computation, in order and by name."""

    def __init__(self, lines: Sequence[str]) -> None:
        read = (_LINE.match(line) for line in lines)
        self.operations = [
            _Operation(
                found["name"],
                found["op"],
                arrays_of(found["type"]),
                _NAME.findall(_inside(found["rest"])),
                found[0],
                found["root"] is not None,
            )
            for found in read
            if found
        ]
        self.by_name = {one.name: one for one in self.operations}
        self.parameters = {
            int(_inside(one.line.split(" parameter(", 1)[1])): one.name
            for one in self.operations
            if one.op == "parameter"
        }

    def source(self, name: str) -> _Operation | None:
        """What an array is, behind other names for it."""
        found = self.by_name.get(name)
        while found is not None and found.op == "bitcast" and found.operands:
            found = self.by_name.get(found.operands[0])
        return found

    def users(self, name: str) -> list[tuple[_Operation, int]]:
        """What reads an array, under any of its names, and as which operand."""
        found = []
        for one in self.operations:
            for place, operand in enumerate(one.operands):
                if operand == name:
                    found += self.users(one.name) if one.op == "bitcast" else [(one, place)]
        return found


def hbm_bytes(text: str) -> int:
    """Operands and results of all that a program does, as often as it does it, where these lie in HBM.

    Of what a slice is cut from or put into, the slice alone counts; what an operation fuses moves nothing itself.
    """
    lines = computations(text)
    bodies = {name: _Body(body) for name, body in lines.items()}
    inner = {
        called
        for body in lines.values()
        for line in body
        if not _RUNS_ITS_OWN.search(line)
        for called in called_by(line)
    }
    times = times_run(lines)
    return sum(
        times[name] * _moved(one, body, bodies)
        for name, body in bodies.items()
        if name not in inner
        for one in body.operations
    )


def _moved(one: _Operation, body: _Body, bodies: dict[str, _Body]) -> int:
    if one.op in _FREE or one.op.endswith(("-done", "-update")) or _ALLOCATES in one.line:
        return 0
    operands = [_result_of(body, name) for name in one.operands]
    fused = _fused(one, bodies)
    if fused is not None:
        return _of_fusion(one, operands, fused, bodies)
    if one.op in ("copy-start", "slice-start"):  # (from, to, ...)
        whole, part = one.result[:2]
        return _reach([whole], part.bytes) + _far(part)
    if one.op in _CUTS:
        return sum(map(_far, one.result)) + _reach(operands[0], sum(array.bytes for array in one.result))
    if one.op == "dynamic-update-slice":
        return 2 * _reach(one.result, sum(array.bytes for array in operands[1]))
    if one.op.endswith("-start"):  # of an exchange: operands, then results
        return sum(map(_far, one.result))
    return sum(map(_far, one.result)) + sum(_far(array) for arrays in operands for array in arrays)


def _of_fusion(one: _Operation, operands: list[list[Array]], fused: _Body, bodies: dict[str, _Body]) -> int:
    read = 0
    for place, arrays in enumerate(operands):
        parts = _parts_read(place, fused, bodies)
        read += sum(map(_far, arrays)) if parts is None else _reach(arrays, sum(part.bytes for part in parts))
    return read + sum(_put(array, made) for array, made in zip(one.result, _made(fused, bodies), strict=False))


def _parts_read(place: int, fused: _Body, bodies: dict[str, _Body]) -> list[Array] | None:
    """What is cut from an operand of a fusion, in it or in those that it fuses; None where all of it is needed."""
    parameter = fused.parameters.get(place)
    users = fused.users(parameter) if parameter else []
    found: list[Array] = []
    for user, at in users:
        inner = _fused(user, bodies)
        if user.op in _CUTS and at == 0:
            found += user.result
        elif inner is not None and (parts := _parts_read(at, inner, bodies)) is not None:
            found += parts
        elif user.op != "dynamic-update-slice" or at != 0:
            return None
    return found if users else None


def _made(fused: _Body, bodies: dict[str, _Body]) -> list[Array | None]:
    """Of each result of a fusion the part that is written, None for all: a slice is put into an array in place."""
    root = next(found for found in fused.operations if found.root)
    found: list[Array | None] = []
    for made in [fused.source(name) for name in (root.operands if root.op == "tuple" else [root.name])]:
        inner = None if made is None else _fused(made, bodies)
        if inner is not None:
            found += _made(inner, bodies)[:1]
        elif made is not None and made.op == "dynamic-update-slice":
            found += _result_of(fused, made.operands[1])[:1] or [None]
        else:
            found.append(None)
    return found


def _put(array: Array, part: Array | None) -> int:
    return _far(array) if part is None else _reach([array], part.bytes)


def _fused(one: _Operation, bodies: dict[str, _Body]) -> _Body | None:
    return bodies.get(next(iter(called_by(one.line)), "")) if one.op == "fusion" else None


def _result_of(body: _Body, name: str) -> list[Array]:
    return body.by_name[name].result if name in body.by_name else []


def _far(array: Array) -> int:
    return 0 if array.near else array.bytes


def _reach(whole: list[Array], part: int) -> int:
    """The bytes of a part of an array, if the array lies in HBM."""
    return 0 if any(array.near for array in whole) else min(part, sum(array.bytes for array in whole))


def _inside(text: str) -> str:
    """What is before the bracket that closes."""
    depth = 1
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[:place]
    return text
