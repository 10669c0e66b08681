"""Where the words of a text begin and end: the units that masking hides and that keywords are made of."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from data_pipelines.keywords import words

# Thai, Lao, Burmese, Khmer, kana, bopomofo and Han put no spaces between words.
_UNSPACED = (
    *((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x2FDF), (0x3005, 0x3007)),
    *((0x3021, 0x312F), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF)),
    *((0xFF66, 0xFF9D), (0x1B000, 0x1B16F), (0x20000, 0x3FFFF)),
)
# The am of Thai and Lao, and the voicing of half-width kana: letters to Unicode, but they normalise into marks.
_MARKS_IN_EFFECT = "\u0e33\u0eb3\uff9e\uff9f"

_LETTER, _LONE, _MARK, _SYMBOL, _SPACE = "LOMS "
_RUN = re.compile("SM*|[LOM]+")
_UNIT = re.compile("[SO]M*|[LM]+")


class Unit(NamedTuple):
    """The characters from `start` to before `end` of a text."""

    start: int
    end: int


def text_runs(text: str) -> list[list[Unit]]:
    """Cuts a text into runs, and each run into units.

    A run ends at white space and at symbols; a symbol is a run of its own. A unit is a whole run in a script that puts
    spaces between words; in one that does not it is one character. Marks stay with the character before them.
    "T-shirt 红色" has the runs T, -, shirt and 红色; the last one has two units.
    """
    kinds = "".join(map(_kind, text))
    return [
        [Unit(*unit.span()) for unit in _UNIT.finditer(kinds, run.start(), run.end())] for run in _RUN.finditer(kinds)
    ]


@lru_cache(maxsize=1 << 16)
def fold_unit(unit: str) -> str:
    """A unit's text as `words` gives it; those of a run, joined, are a word of the text. "" for most symbols."""
    return " ".join(words(unit))


@lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    category = unicodedata.category(character)[0]
    if category in "ZC":
        return _SPACE
    if category == "M" or character in _MARKS_IN_EFFECT:
        return _MARK
    if len(words(f"a{character}a")) != 1:
        return _SYMBOL  # or what normalises into several characters with one between them, such as ¼
    code = ord(character)
    return _LONE if any(first <= code <= last for first, last in _UNSPACED) else _LETTER
