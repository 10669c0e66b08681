"""Whether a product's title says what a query asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from make_jax.retrieval.bm25 import units


class Phrases:
    """A list of words and phrases, such as colours, to look for in queries and titles."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._phrases = {tuple(units(phrase)) for phrase in phrases} - {()}
        self._longest = max(map(len, self._phrases), default=0)

    def __len__(self) -> int:
        return len(self._phrases)

    def asked(self, query: Sequence[str]) -> list[tuple[str, ...]]:
        """The phrases in a query's units, from left to right, the longest at each place: "navy blue", not "blue"."""
        found, first = [], 0
        while first < len(query):
            sizes = range(min(self._longest, len(query) - first), 0, -1)
            size = next((size for size in sizes if tuple(query[first : first + size]) in self._phrases), 0)
            if size:
                found.append(tuple(query[first : first + size]))
            first += size or 1
        return found


def says_all(title: Sequence[str], phrases: Iterable[Sequence[str]]) -> bool:
    """Whether a title, given as units, holds every phrase, its units one after the other."""
    spelled = _spelled(title)
    return all(_spelled(phrase) in spelled for phrase in phrases)


def _spelled(words: Sequence[str]) -> str:
    return f" {' '.join(words)} "  # no unit holds a space, so that phrases are found as whole words
