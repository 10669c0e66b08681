"""Tokenised titles: which word each token belongs to, and whether shoppers use that word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from data_pipelines.keywords import words
from data_pipelines.text_units import fold_unit, text_runs
from data_pipelines.tokenizer import EncodedText, TextTokenizer

MIN_QUERIES = 2
MIN_CLICKS = 5
_MAX_UNITS = 8  # longer runs of a script without spaces are whole queries rather than words


@dataclass(frozen=True)
class KeywordSet:
    """The words that shoppers use, as `keywords.words` gives them.

    Attributes:
      words: all of them.
      weights: how likely each is to be typed by those who want a product that has it in its title, above 0; see
        `keyword_weights`. Those without one count 1.
    """

    words: frozenset[str]
    weights: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_queries(cls, queries: Iterable[str], clicks: Iterable[int]) -> KeywordSet:
        """Collects the words of a click log's queries.

        A word is a keyword if two different queries have it, or if queries with it led to 5 clicks in all: what only
        one query has, which hardly anybody followed up, is as likely to be a typing error. Word order and repetition
        make no different query.

        Args:
          queries: texts.
          clicks: of each query, as many.
        """
        clicks_by_query: Counter[frozenset[str]] = Counter()
        for query, count in zip(queries, clicks, strict=True):
            clicks_by_query[frozenset(words(query))] += count
        queries_with, clicks_with = Counter[str](), Counter[str]()
        for query_words, count in clicks_by_query.items():
            for word in query_words:
                queries_with[word] += 1
                clicks_with[word] += count
        return cls(
            frozenset(word for word, n in queries_with.items() if n >= MIN_QUERIES or clicks_with[word] >= MIN_CLICKS)
        )

    def matches(self, units: Sequence[str]) -> list[tuple[int, int]]:
        """Finds the keywords in a run of a text.

        Args:
          units: the folded units of the run (`text_units`); several are a keyword if they are one when joined.

        Returns:
          (first, end) of each keyword's units, from left to right; where keywords overlap, the first, and the longest
          that begins there.
        """
        found, first = [], 0
        while first < len(units):
            for end in range(min(len(units), first + _MAX_UNITS), first, -1):
                if "".join(units[first:end]) in self.words:
                    found.append((first, end))
                    first = end
                    break
            else:
                first += 1
        return found


class TitleTokens(NamedTuple):
    """N titles, three arrays int32[tokens] each, as long as each other.

    `ids` are tokens; `words` the number of the word that each token belongs to, -1 for special tokens; `keywords` 1
    where that word is a keyword, else 0.
    """

    ids: list[np.ndarray]
    words: list[np.ndarray]
    keywords: list[np.ndarray]


def tokenize_titles(
    tokenizer: TextTokenizer, titles: Sequence[str], keywords: KeywordSet, max_tokens: int
) -> TitleTokens:
    """Encodes N titles, at most `max_tokens` long, and marks their keywords; a title of white space has no tokens."""
    encoded = tokenizer.encode_words(titles, max_tokens)
    flags = [_flags(title, tokens, keywords) for title, tokens in zip(titles, encoded, strict=True)]
    return TitleTokens([tokens.ids for tokens in encoded], [tokens.words for tokens in encoded], flags)


def _flags(title: str, tokens: EncodedText, keywords: KeywordSet) -> np.ndarray:
    marked = _marked(title, keywords)
    numbers, spans = tokens.words.tolist(), tokens.spans.tolist()
    hits = {number for number, (start, end) in zip(numbers, spans, strict=True) if 1 in marked[start:end]}
    return np.array([number in hits for number in numbers], np.int32)


def _marked(title: str, keywords: KeywordSet) -> bytearray:
    """For each character of a title, 1 if it is part of a keyword, else 0."""
    marked = bytearray(len(title))
    for run in text_runs(title):
        for first, end in keywords.matches([fold_unit(title[unit.start : unit.end]) for unit in run]):
            start, stop = run[first].start, run[end - 1].end
            marked[start:stop] = b"\1" * (stop - start)
    return marked
