"""Queries made of titles: what shoppers might type for products, those that nobody clicked yet included."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from itertools import accumulate
from math import log1p
from typing import NamedTuple

from data_pipelines.keywords import query_keyword_key
from data_pipelines.text_units import fold_unit, text_runs
from data_pipelines.title_tokens import KeywordSet

_MAX_RUNS = 4  # words of a query
_MIN_UNITS, _MAX_UNITS = 2, 6  # characters of a query in a script without spaces
_JOINERS = ("-", "'", "\u2010", "\u2011", "\u2019")  # hyphens and apostrophes


class _Run(NamedTuple):
    """A run of a title without symbols: its folded units, and whether only a hyphen or apostrophe is before it."""

    units: list[str]
    joined: bool


class _Span(NamedTuple):
    """A piece of a title.

    Attributes:
      text: as a query.
      first: the first of the title's units in it.
      end: the unit behind it.
      broken: whether it begins or ends inside a compound, as "lifestyle t" of "Lifestyle T-shirt" does.
    """

    text: str
    first: int
    end: int
    broken: bool


def pseudo_queries(title: str, product_id: str, count: int, keywords: KeywordSet) -> list[str]:
    """Makes up queries that a shopper could type to find a product.

    They are one to four words of the title that stand next to each other; of a run of characters without spaces
    (Chinese, say) two to six. Compounds are kept whole where possible. Pieces made of keywords come first, since the
    rest of a title is what sellers write and shoppers do not: a "new 2024 model" has few seekers. Among those that are
    as much of keywords, chance decides, in proportion to the mean weight of their keywords (Efraimidis and Spirakis
    2006); it is a hash of the product's id and the piece, so that every machine and every run chooses alike, and
    products with one title differ.

    Args:
      title: any text.
      product_id: whose title it is.
      count: how many queries at most.
      keywords: the words that shoppers use, and how likely.

    Returns:
      Up to `count` distinct queries, as `words` spells them; none for a title without words.
    """
    runs = list(_runs(title))
    starts = list(accumulate((len(run.units) for run in runs), initial=0))
    found = [
        (start + first, start + end, keywords.weights.get("".join(run.units[first:end]), 1.0))
        for start, run in zip(starts, runs, strict=False)
        for first, end in keywords.matches(run.units)
    ]

    def rank(span: _Span) -> tuple[bool, float, float, bytes]:
        inside = [(end - first, weight) for first, end, weight in found if span.first <= first and end <= span.end]
        covered = sum(length for length, _ in inside)
        weight = sum(weight for _, weight in inside) / len(inside) if inside else 1.0
        digest = blake2b(f"{product_id}\n{span.text}".encode("utf-8", "replace"), digest_size=8).digest()
        chance = (int.from_bytes(digest) >> 11) * 2.0**-53
        waiting = -log1p(-chance) / weight
        return span.broken or len(span.text) == 1, -covered / (span.end - span.first), waiting, digest

    chosen: dict[str, str] = {}
    for span in sorted(_spans(runs, starts), key=rank):
        if len(chosen) == count:
            break
        chosen.setdefault(query_keyword_key(span.text), span.text)
    return list(chosen.values())


def _runs(title: str) -> Iterator[_Run]:
    last = 0
    for run in text_runs(title):
        units = [fold_unit(title[unit.start : unit.end]) for unit in run]
        if any(units):  # most symbols fold to nothing
            yield _Run(units, last > 0 and title[last : run[0].start] in _JOINERS)
            last = run[-1].end


def _spans(runs: list[_Run], starts: list[int]) -> Iterator[_Span]:
    texts = ["".join(run.units) for run in runs]
    joined = [run.joined for run in runs] + [False]
    for index, (units, _) in enumerate(runs):
        for end in range(index + 1, min(index + _MAX_RUNS, len(runs)) + 1):
            if len(runs[end - 1].units) > _MAX_UNITS:
                break
            yield _Span(" ".join(texts[index:end]), starts[index], starts[end], joined[index] or joined[end])
        for first in range(len(units)):
            for end in range(first + _MIN_UNITS, min(first + _MAX_UNITS, len(units)) + 1):
                yield _Span("".join(units[first:end]), starts[index] + first, starts[index] + end, False)
