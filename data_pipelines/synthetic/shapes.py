"""The outline of each kind of product: polygons and lines in a box about [-1, 1] x [-1.2, 1.2], y down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Paint = Literal["body", "shade", "light", "dark", "white", "metal", "wood", "gold"]


@dataclass(frozen=True)
class Layer:
    """One polygon or, with a width, one line; later layers cover earlier ones.

    Attributes:
      paint: "body" is the product's own colour and pattern, "shade" and "light" are darker and lighter tones
        of the colour, the others are fixed colours.
      points: float64[n, 2].
      width: width of a line in units of the box; 0 for a filled polygon.
    """

    paint: Paint
    points: np.ndarray
    width: float = 0.0


def _at(points: str) -> np.ndarray:
    """Points written as in SVG: "x,y x,y"."""
    return np.array([[float(part) for part in point.split(",")] for point in points.split()])


def _fill(paint: Paint, points: str | np.ndarray) -> Layer:
    return Layer(paint, _at(points) if isinstance(points, str) else points)


def _line(paint: Paint, width: float, points: str) -> Layer:
    return Layer(paint, _at(points), width)


def _curve(paint: Paint, width: float, points: str) -> Layer:
    return Layer(paint, _round_off(_at(points), closed=False), width)


def _mirror(half: str) -> np.ndarray:
    """A symmetric outline from its right half, top to bottom."""
    right = _at(half)
    return np.concatenate([right, right[::-1] * (-1.0, 1.0)])


def _smooth(points: str) -> np.ndarray:
    """A soft closed outline near the points."""
    return _round_off(_at(points), closed=True)


def _round_off(path: np.ndarray, closed: bool) -> np.ndarray:
    """Cut the corners off a path, twice (Chaikin's curve)."""
    for _ in range(2):
        after = np.roll(path, -1, axis=0) if closed else path[1:]
        before = path if closed else path[:-1]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], axis=1).reshape(-1, 2)
        path = cut if closed else np.concatenate([path[:1], cut, path[-1:]])
    return path


def _box(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])


def _rounded(left: float, top: float, right: float, bottom: float, radius: float = 0.12) -> np.ndarray:
    """A box with soft corners."""
    corners = _box(left, top, right, bottom)
    inward = radius * np.array([(1.0, 1.0), (-1.0, 1.0), (-1.0, -1.0), (1.0, -1.0)])
    path = []
    for index, (corner, step) in enumerate(zip(corners, inward, strict=True)):
        ends = [corner + step * (0.0, 1.0), corner, corner + step * (1.0, 0.0)]
        path += ends if index % 2 == 0 else ends[::-1]
    return _round_off(np.array(path), closed=True)


def _oval(x: float, y: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> np.ndarray:
    turn = np.radians(np.linspace(start, stop, 28))
    return np.stack([x + rx * np.cos(turn), y + ry * np.sin(turn)], axis=1)


def _scallops() -> np.ndarray:
    """The lower edge of an umbrella, right to left: four arches."""
    x = np.linspace(1.0, -1.0, 33)
    return np.stack([x, 0.2 - 0.14 * np.abs(np.sin(2 * np.pi * x))], axis=1)


SHAPES: dict[str, tuple[Layer, ...]] = {
    "t-shirt": (
        _fill(
            "body",
            _mirror("0,-0.72 0.16,-0.76 0.28,-0.92 0.55,-0.82 1.05,-0.3 0.78,-0.02 0.58,-0.22 0.6,0.95"),
        ),
        _curve("shade", 0.07, "-0.28,-0.92 -0.14,-0.72 0.14,-0.72 0.28,-0.92"),
        _line("shade", 0.03, "0.58,-0.22 0.54,-0.7"),
        _line("shade", 0.03, "-0.58,-0.22 -0.54,-0.7"),
    ),
    "dress": (
        _fill(
            "body",
            _mirror("0,-0.85 0.2,-0.95 0.24,-1.2 0.36,-1.2 0.42,-0.72 0.26,-0.2 0.5,0.4 0.88,1.1 0.4,1.2 0,1.22"),
        ),
        _fill("shade", _mirror("0.27,-0.25 0.28,-0.12")),
        _line("shade", 0.03, "0.12,0.1 0.28,1.15"),
        _line("shade", 0.03, "-0.12,0.1 -0.28,1.15"),
    ),
    "trousers": (
        _fill("body", _mirror("0,-1.15 0.46,-1.15 0.56,-0.5 0.6,1.18 0.2,1.18 0.04,-0.2")),
        _fill("shade", _mirror("0.46,-1.17 0.48,-1.02")),
        _line("shade", 0.03, "0,-1 0,-0.2"),
        _line("shade", 0.03, "0.42,-0.95 0.28,-0.72"),
        _line("shade", 0.03, "-0.42,-0.95 -0.28,-0.72"),
    ),
    "shoe": (
        _fill(
            "body",
            _smooth(
                "-0.98,0.45 -0.92,-0.1 -0.98,-0.5 -0.75,-0.55 -0.55,-0.35 -0.25,-0.5 0.1,-0.1 "
                "0.5,0.08 0.98,0.15 1.05,0.5"
            ),
        ),
        _fill("white", _smooth("-1.02,0.38 1.05,0.38 1.08,0.62 -1.02,0.62")),
        _line("white", 0.06, "-0.2,-0.22 0.02,-0.36"),
        _line("white", 0.06, "-0.02,-0.08 0.2,-0.2"),
        _line("white", 0.06, "0.18,0.04 0.38,-0.08"),
        _curve("shade", 0.05, "0.55,0.36 0.62,0.15 0.8,0.1"),
        _curve("light", 0.08, "-0.75,0.25 -0.4,0.25 0,0.05"),
    ),
    "handbag": (
        _curve("shade", 0.1, "-0.42,-0.15 -0.42,-0.95 0,-1.1 0.42,-0.95 0.42,-0.15"),
        _fill("body", _smooth("-0.7,-0.2 0.7,-0.2 0.98,0.85 0.8,0.9 -0.8,0.9 -0.98,0.85")),
        _curve("shade", 0.05, "-0.74,-0.1 -0.5,0.3 0.5,0.3 0.74,-0.1"),
        _fill("gold", _box(-0.1, 0.15, 0.1, 0.36)),
    ),
    "hat": (
        _fill("shade", _oval(0.0, 0.38, 1.08, 0.34)),
        _fill("body", _oval(0.0, 0.33, 1.05, 0.3)),
        _fill("body", _smooth("-0.58,0.36 -0.56,-0.5 -0.3,-0.62 0.3,-0.62 0.56,-0.5 0.58,0.36 0,0.46")),
        _curve("shade", 0.13, "-0.56,0.18 -0.3,0.3 0.3,0.3 0.56,0.18"),
    ),
    "charger": (
        _fill("metal", _box(-0.32, -1.0, -0.18, -0.55)),
        _fill("metal", _box(0.18, -1.0, 0.32, -0.55)),
        _fill("body", _rounded(-0.66, -0.6, 0.66, 0.9, 0.2)),
        _fill("dark", _rounded(-0.22, 0.52, 0.22, 0.68, 0.05)),
        _curve("shade", 0.08, "0.08,-0.3 -0.16,0.06 0.16,0 -0.08,0.34"),
    ),
    "cable": (
        _curve(
            "body",
            0.1,
            "-0.75,-0.75 -0.7,0.2 0,0.95 0.75,0.5 0.6,-0.3 0,-0.35 -0.4,0.2 0.1,0.75 0.9,0.2 0.75,-0.75",
        ),
        _fill("body", _box(-0.88, -0.85, -0.62, -0.45)),
        _fill("metal", _box(-0.83, -1.08, -0.67, -0.85)),
        _fill("body", _box(0.62, -0.85, 0.88, -0.45)),
        _fill("metal", _box(0.69, -1.05, 0.81, -0.85)),
    ),
    "perfume": (
        _fill("dark", _box(-0.22, -1.1, 0.22, -0.62)),
        _fill("gold", _box(-0.16, -0.64, 0.16, -0.45)),
        _fill("body", _rounded(-0.64, -0.5, 0.64, 1.0, 0.16)),
        _fill("light", _box(-0.54, 0.1, 0.54, 0.85)),
        _fill("white", _box(-0.32, 0.18, 0.32, 0.6)),
        _line("shade", 0.05, "-0.2,0.38 0.2,0.38"),
    ),
    "cartridge": (
        _fill("body", "-0.85,-0.7 0.55,-0.7 0.55,-0.45 0.85,-0.45 0.85,0.8 -0.85,0.8"),
        _fill("white", _box(-0.65, -0.45, 0.35, 0.3)),
        _line("shade", 0.06, "-0.5,-0.2 0.2,-0.2"),
        _line("shade", 0.06, "-0.5,0.05 0.05,0.05"),
        _fill("gold", _box(0.45, 0.4, 0.72, 0.68)),
        _fill("dark", _box(-0.3, 0.8, 0.1, 0.95)),
    ),
    "book": (
        _fill("white", "-0.6,0.95 0.72,0.95 0.82,1.08 -0.5,1.08"),
        _fill("body", _box(-0.68, -1.0, 0.72, 0.96)),
        _fill("shade", _box(-0.68, -1.0, -0.5, 0.96)),
        _line("light", 0.1, "-0.3,-0.6 0.52,-0.6"),
        _line("light", 0.1, "-0.3,-0.38 0.3,-0.38"),
        _fill("light", _oval(0.12, 0.3, 0.26, 0.26)),
    ),
    "battery": tuple(
        layer
        for x in (-0.45, 0.45)
        for layer in (
            _fill("metal", _box(x - 0.14, -1.05, x + 0.14, -0.85)),
            _fill("gold", _rounded(x - 0.34, -0.9, x + 0.34, -0.1)),
            _fill("body", _rounded(x - 0.34, -0.4, x + 0.34, 1.0)),
            Layer("white", np.array([(x - 0.14, 0.7), (x + 0.14, 0.7)]), 0.08),
            Layer("white", np.array([(x - 0.14, -0.1), (x + 0.14, -0.1)]), 0.08),
            Layer("white", np.array([(x, -0.24), (x, 0.04)]), 0.08),
        )
    ),
    "mug": (
        Layer("body", _oval(0.62, 0.1, 0.36, 0.4, -80, 80), 0.16),
        _fill("body", _smooth("-0.7,-0.65 0.62,-0.65 0.6,0.75 0.35,0.85 -0.42,0.85 -0.68,0.75")),
        _fill("shade", _oval(-0.04, -0.58, 0.6, 0.15)),
        _fill("dark", _oval(-0.04, -0.55, 0.5, 0.1)),
    ),
    "lamp": (
        _line("metal", 0.1, "0,0 0,0.95"),
        _fill("dark", _oval(0.0, 1.0, 0.46, 0.14)),
        _fill("body", "-0.42,-1 0.42,-1 0.88,0.12 -0.88,0.12"),
        _line("shade", 0.05, "-0.86,0.1 0.86,0.1"),
        _line("metal", 0.04, "0.3,0.12 0.3,0.42"),
    ),
    "chair": (
        _line("wood", 0.13, "-0.5,0.4 -0.64,1.15"),
        _line("wood", 0.13, "0.5,0.4 0.64,1.15"),
        _line("wood", 0.1, "-0.3,0.4 -0.34,0.95"),
        _line("wood", 0.1, "0.3,0.4 0.34,0.95"),
        _fill("body", _rounded(-0.54, -1.15, 0.54, 0.25, 0.2)),
        _fill("body", _rounded(-0.72, 0.1, 0.72, 0.48, 0.14)),
        _line("shade", 0.05, "-0.3,-0.85 -0.3,0"),
        _line("shade", 0.05, "0,-0.9 0,0"),
        _line("shade", 0.05, "0.3,-0.85 0.3,0"),
    ),
    "watch": (
        _fill("body", _mirror("0,-1.18 0.3,-1.18 0.42,-0.3 0.42,0.3 0.3,1.18 0,1.18")),
        _fill("metal", _oval(0.0, 0.0, 0.6, 0.6)),
        _fill("white", _oval(0.0, 0.0, 0.46, 0.46)),
        _line("dark", 0.07, "0,0 0,-0.34"),
        _line("dark", 0.07, "0,0 0.24,0.12"),
        _fill("metal", _box(0.58, -0.08, 0.7, 0.08)),
        _line("shade", 0.03, "-0.3,0.85 0.3,0.85"),
    ),
    "umbrella": (
        _curve("wood", 0.09, "0,-0.9 0,0.95 0.02,1.18 0.3,1.18 0.3,0.95"),
        _line("metal", 0.07, "0,-1.05 0,-0.8"),
        _fill("body", np.concatenate([_oval(0.0, 0.06, 1.0, 0.95, 180, 360), _scallops()])),
        _curve("shade", 0.035, "0,-0.88 -0.4,-0.5 -0.5,0.1"),
        _curve("shade", 0.035, "0,-0.88 0.4,-0.5 0.5,0.1"),
        _line("shade", 0.035, "0,-0.88 0,0.08"),
    ),
}
