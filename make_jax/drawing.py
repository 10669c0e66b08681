"""Figures for the pages we write: matplotlib as inline SVG.

Figures are drawn in stand-in colours that are then replaced by the page's CSS variables, so one drawing is
right in light and in dark. Text stays text: it takes the reader's fonts, which know every script.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_VARIABLES = ("ink", "muted", "line", "text", "picture", "both", "good", "accent")
COLOURS = {name: f"#0000{number:02x}" for number, name in enumerate(_VARIABLES, start=1)}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "text.color": COLOURS["ink"],
    "axes.labelcolor": COLOURS["muted"],
    "axes.edgecolor": COLOURS["line"],
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.axisbelow": True,
    "grid.color": COLOURS["line"],
    "xtick.color": COLOURS["line"],
    "ytick.color": COLOURS["line"],
    "xtick.labelcolor": COLOURS["muted"],
    "ytick.labelcolor": COLOURS["muted"],
    "ytick.major.size": 0,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@dataclass(frozen=True)
class Drawing:
    """A figure to put on a page: ``svg`` is markup for inlining, ``description`` says what it shows."""

    svg: str
    description: str


def draw(name: str, size: tuple[float, float], paint: Callable[[Axes], str]) -> Drawing:
    """Run ``paint`` on fresh axes of ``size`` inches; it draws, and returns the description.

    ``name`` is the figure's own on its page.
    """
    style: Any = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's fonts draw the text
        figure = Figure(figsize=size, layout="constrained")
        description = paint(figure.subplots())
        buffer = io.BytesIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    return Drawing(_inline(buffer.getvalue(), name, description), description)


def label(text: str, width: int = 28) -> str:
    """Text that is safe to draw: printable, as XML forbids control characters, and not too long."""
    clean = "".join(char if char.isprintable() else " " for char in text)
    return clean if len(clean) <= width else clean[: width - 1] + "…"


def _inline(svg: bytes, name: str, description: str) -> str:
    """Turn a matplotlib SVG file into markup for an HTML page: no prolog, unique ids, the page's colours."""
    root = ElementTree.fromstring(svg)
    for parent in root.iter():
        parent.tag = parent.tag.rpartition("}")[2]
        for child in [c for c in parent if c.tag.endswith(("}style", "}metadata"))]:
            parent.remove(child)
        parent.attrib = {k.rpartition("}")[2]: _own(k, v, name) for k, v in parent.attrib.items()}
    for key in ("width", "height"):
        del root.attrib[key]
    root.attrib |= {"role": "img", "aria-label": label(description, 1000), "class": f"figure-{name}"}
    return ElementTree.tostring(root, encoding="unicode")


def _own(key: str, value: str, name: str) -> str:
    """One attribute of figure ``name``: ids made unique on the page, stand-in colours replaced."""
    if key == "id":
        return f"{name}-{value}"
    value = re.sub(r"^#(?=[A-Za-z])|(?<=url\()#", f"#{name}-", value)
    return re.sub(r"#0000(\d\d)\b", lambda match: f"var(--{_VARIABLES[int(match[1]) - 1]})", value)
