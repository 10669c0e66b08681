"""Draws a product: a shape in its colour and pattern on a background, as JPEG."""

from __future__ import annotations

import io
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from data_pipelines.synthetic.shapes import SHAPES, Layer

Rgb = tuple[int, int, int]

PALETTE: dict[str, Rgb] = {
    "black": (32, 32, 34),
    "white": (246, 246, 244),
    "blue": (40, 110, 225),
    "red": (212, 28, 36),
    "grey": (138, 140, 143),
    "navy": (24, 34, 92),
    "green": (36, 150, 62),
    "pink": (246, 142, 184),
    "brown": (118, 72, 38),
    "purple": (128, 48, 168),
    "yellow": (248, 214, 44),
    "orange": (245, 128, 24),
}
# What kinds whose picture tells nothing are made of, whatever their attributes.
_STOCK: tuple[Rgb, ...] = ((232, 232, 230), (70, 74, 80), (206, 190, 160))
_FIXED: dict[str, Rgb] = {
    "dark": (44, 42, 46),
    "white": (250, 250, 248),
    "metal": (176, 180, 186),
    "wood": (158, 112, 66),
    "gold": (204, 164, 72),
}
_SUPERSAMPLE = 2
_TALLEST = 1.25  # half the height of the shapes' box, in units of half its width
_JPEG_QUALITY = 88


@dataclass(frozen=True)
class _Pose:
    """Where on the canvas the shape's box lies."""

    matrix: np.ndarray  # float64[2, 2], box units to pixels
    centre: np.ndarray  # float64[2], pixels
    unit: float  # pixels in half the box's width

    def place(self, points: np.ndarray) -> list[tuple[float, float]]:
        return [(x, y) for x, y in (points @ self.matrix + self.centre).tolist()]


def draw_product(
    kind: str, colour: str | None, pattern: str | None, size: tuple[int, int], rng: random.Random
) -> bytes:
    """The picture of a product, JPEG-encoded.

    Args:
      kind: key of `shapes.SHAPES`.
      colour: key of `PALETTE`; None for kinds whose colour means nothing.
      pattern: "plain", "striped", "checked", "dotted" or "floral"; None is plain.
      size: width and height, pixels.
      rng: settles background, position, size, tilt and light.
    """
    width, height = (side * _SUPERSAMPLE for side in size)
    canvas = _background(width, height, rng)
    pose = _pose(width, height, rng)
    base = _vary(PALETTE[colour] if colour else rng.choice(_STOCK), rng)
    body = _texture(pattern or "plain", base, (width, height), pose.unit, rng)
    paints = _FIXED | {"shade": _shade(base), "light": _blend(base, (255, 255, 255), 0.5)}
    for layer in SHAPES[kind]:
        _paint(canvas, layer, pose, body, paints)
    buffer = io.BytesIO()
    canvas.reduce(_SUPERSAMPLE).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _paint(canvas: Image.Image, layer: Layer, pose: _Pose, body: Image.Image, paints: dict[str, Rgb]) -> None:
    points = pose.place(layer.points)
    width = max(1, round(layer.width * pose.unit))
    if layer.paint != "body":
        draw = ImageDraw.Draw(canvas)
        if layer.width:
            draw.line(points, fill=paints[layer.paint], width=width, joint="curve")
        else:
            draw.polygon(points, fill=paints[layer.paint])
        return
    mask = Image.new("1", canvas.size)
    draw = ImageDraw.Draw(mask)
    edge = ImageDraw.Draw(canvas)
    if layer.width:
        edge.line(points, fill=paints["shade"], width=width + _SUPERSAMPLE, joint="curve")
        draw.line(points, fill=1, width=width, joint="curve")
        canvas.paste(body, mask=mask)
    else:
        draw.polygon(points, fill=1)
        canvas.paste(body, mask=mask)
        edge.line([*points, points[0]], fill=paints["shade"], width=_SUPERSAMPLE)  # white shows on white


def _pose(width: int, height: int, rng: random.Random) -> _Pose:
    unit = min(width / 2, height / 2 / _TALLEST) * rng.uniform(0.74, 0.94)
    tilt = math.radians(rng.uniform(-9, 9))
    stretch = rng.uniform(0.93, 1.07)
    flip = rng.choice((-1.0, 1.0))
    cos, sin = math.cos(tilt), math.sin(tilt)
    matrix = unit * np.array([[flip * stretch * cos, flip * stretch * sin], [-sin, cos]])
    room = np.array([width / 2 - unit, height / 2 - unit * _TALLEST * 0.95])
    shift = np.array([rng.uniform(-1, 1), rng.uniform(-1, 1)]) * np.maximum(room, 0)
    return _Pose(matrix, np.array([width / 2, height / 2]) + shift, unit)


def _background(width: int, height: int, rng: random.Random) -> Image.Image:
    """A studio wall, a soft gradient, or a wall above a floor; pale, so that the product stands out."""
    pale = _pale(rng)
    style = rng.random()
    if style < 0.4:
        return Image.new("RGB", (width, height), pale)
    if style < 0.7:
        ramp = Image.linear_gradient("L").resize((width, height))
        return ImageOps.colorize(ramp, pale, _blend(pale, (120, 120, 125), rng.uniform(0.1, 0.35)))
    canvas = Image.new("RGB", (width, height), pale)
    floor = round(height * rng.uniform(0.6, 0.85))
    canvas.paste(_blend(_pale(rng), (150, 130, 110), 0.3), (0, floor, width, height))
    return canvas


def _pale(rng: random.Random) -> Rgb:
    """A nearly white tone with a hint of some hue."""
    light = rng.uniform(214, 252)
    red, green, blue = (round(min(255.0, light + rng.uniform(-14, 8))) for _ in range(3))
    return red, green, blue


def _texture(pattern: str, base: Rgb, size: tuple[int, int], unit: float, rng: random.Random) -> Image.Image:
    """The cloth: the base colour over most of it, the pattern in a contrasting one."""
    cloth = Image.new("RGB", size, base)
    light = sum(base) > 330
    accent = rng.choice(((38, 38, 44), (96, 30, 40), (30, 50, 90)) if light else ((250, 248, 240), (244, 226, 170)))
    draw = ImageDraw.Draw(cloth)
    if pattern == "striped":
        upright = rng.random() < 0.35
        for start in _steps(max(size), unit * rng.uniform(0.24, 0.32), rng):
            _band(draw, start, unit * 0.09, accent, size, upright)
    elif pattern == "checked":
        gap = unit * rng.uniform(0.38, 0.46)
        half = _blend(base, accent, 0.45)
        columns, rows = _steps(size[0], gap, rng), _steps(size[1], gap, rng)
        for upright, starts in ((True, columns), (False, rows)):
            for start in starts:
                _band(draw, start, gap * 0.28, half, size, upright)
        for x in columns:
            for y in rows:
                draw.rectangle((x, y, x + gap * 0.28, y + gap * 0.28), fill=accent)
    elif pattern == "dotted":
        for x, y in _lattice(size, unit * rng.uniform(0.28, 0.34), rng):
            _disc(draw, x, y, unit * 0.075, accent)
    elif pattern == "floral":
        heart = (236, 190, 40) if not light else (226, 90, 110)
        for x, y in _lattice(size, unit * rng.uniform(0.48, 0.56), rng):
            _flower(draw, x, y, unit * 0.1, rng.uniform(0, 6.28), accent, heart)
    return cloth


def _flower(draw: ImageDraw.ImageDraw, x: float, y: float, petal: float, turn: float, accent: Rgb, heart: Rgb) -> None:
    for k in range(5):
        angle = turn + k * 2 * math.pi / 5
        _disc(draw, x + 1.15 * petal * math.cos(angle), y + 1.15 * petal * math.sin(angle), petal * 0.8, accent)
    _disc(draw, x, y, petal * 0.65, heart)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, fill: Rgb) -> None:
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def _band(
    draw: ImageDraw.ImageDraw, start: float, width: float, fill: Rgb, size: tuple[int, int], upright: bool
) -> None:
    draw.rectangle((start, 0, start + width, size[1]) if upright else (0, start, size[0], start + width), fill=fill)


def _steps(length: float, gap: float, rng: random.Random) -> list[float]:
    first = rng.uniform(-gap, 0)
    return [first + k * gap for k in range(math.ceil(length / gap) + 1)]


def _lattice(size: tuple[int, int], gap: float, rng: random.Random) -> list[tuple[float, float]]:
    """Points in rows, every other row shifted by half a step."""
    columns, rows = _steps(size[0], gap, rng), _steps(size[1], gap * 0.85, rng)
    return [(x + gap / 2 * (row % 2), y) for row, y in enumerate(rows) for x in columns]


def _vary(colour: Rgb, rng: random.Random) -> Rgb:
    """The same colour under another light, from another dye."""
    light = rng.uniform(0.93, 1.05)
    red, green, blue = (max(0, min(255, round(part * light + rng.uniform(-7, 7)))) for part in colour)
    return red, green, blue


def _shade(colour: Rgb) -> Rgb:
    """A tone that shows up against the colour: darker, or lighter where it is nearly black."""
    return _blend(colour, (0, 0, 0), 0.35) if sum(colour) > 180 else _blend(colour, (255, 255, 255), 0.3)


def _blend(one: Rgb, other: Rgb, share: float) -> Rgb:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue
