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
    if one.op in _FREE or one.op.endswith(("-done", "-update")):
        return 0
    operands = [_result_of(body, name) for name in one.operands]
    if one.op == "fusion":
        fused = bodies.get(next(iter(called_by(one.line)), ""))
        if fused is not None:
            return _of_fusion(one, operands, fused)
    if one.op in ("copy-start", "slice-start"):  # (from, to, ...)
        whole, part = one.result[:2]
        return _reach([whole], part.bytes) + _far(part)
    if one.op in ("dynamic-slice", "slice", "gather"):
        return sum(map(_far, one.result)) + _reach(operands[0], sum(array.bytes for array in one.result))
    if one.op == "dynamic-update-slice":
        return 2 * _reach(one.result, sum(array.bytes for array in operands[1]))
    if one.op.endswith("-start"):  # of an exchange: operands, then results
        return sum(map(_far, one.result))
    return sum(map(_far, one.result)) + sum(_far(array) for arrays in operands for array in arrays)


def _of_fusion(one: _Operation, operands: list[list[Array]], fused: _Body) -> int:
    parameters = {
        int(_inside(p.line.split(" parameter(", 1)[1])): p.name for p in fused.operations if p.op == "parameter"
    }
    read = 0
    for place, arrays in enumerate(operands):
        users = fused.users(parameters[place]) if place in parameters else []
        cut = [user for user, at in users if user.op in ("dynamic-slice", "slice", "gather") and at == 0]
        put = [user for user, at in users if user.op == "dynamic-update-slice" and at == 0]
        if users and len(cut) + len(put) == len(users):
            read += _reach(arrays, sum(array.bytes for user in cut for array in user.result))
        else:
            read += sum(map(_far, arrays))
    return read + _written(one, fused)


def _written(one: _Operation, fused: _Body) -> int:
    """What a fusion's roots write: an array that a slice is put into is changed in place."""
    root = next(found for found in fused.operations if found.root)
    roots = [fused.source(name) for name in root.operands] if root.op == "tuple" else [fused.source(root.name)]
    written = 0
    for array, made in zip(one.result, roots, strict=False):
        if made is not None and made.op == "dynamic-update-slice":
            written += _reach([array], sum(part.bytes for part in _result_of(fused, made.operands[1])))
        else:
            written += _far(array)
    return written


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
