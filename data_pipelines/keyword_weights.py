"""How well each keyword of a title predicts that shoppers type it, learnt from the click log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from data_pipelines.text_units import fold_unit, text_runs
from data_pipelines.title_tokens import KeywordSet

_PRIOR = 5.0  # pairs that every keyword is taken to have been in beforehand, with the share of the mean keyword
_KEPT = 1 << 16  # queries whose keywords are remembered


def weigh_keywords(
    keywords: KeywordSet, titles: Iterable[str], queries: Sequence[str], pairs: Mapping[str, np.ndarray]
) -> KeywordSet:
    """Gives each keyword its weight: of the clicked pairs whose title has it, the share whose query has it, too.

    Of few pairs little is known, so the share of all keywords together counts like five pairs more. A keyword that is
    in no title that was clicked has the share of all.

    Args:
      keywords: the words that shoppers use.
      titles: of all products, in order.
      queries: of the log.
      pairs: `query_index` and `product_index`, int arrays; each pair counts once, however often it was clicked.

    Returns:
      The same words with weights above 0 and below 1; without pairs, `keywords` itself.
    """
    order = np.argsort(pairs["product_index"], kind="stable")
    of_product = np.split(pairs["query_index"][order], np.cumsum(np.bincount(pairs["product_index"][order]))[:-1])
    typed_in = lru_cache(maxsize=_KEPT)(lambda query: _keywords_in(queries[query], keywords))
    there, typed = Counter[str](), Counter[str]()
    for title, asked in zip(titles, of_product, strict=False):  # the last products may have no pair
        if not len(asked):
            continue
        of_title = _keywords_in(title, keywords)
        for word in of_title:
            there[word] += len(asked)
        for query in asked.tolist():
            typed.update(of_title & typed_in(query))
    if not there:
        return keywords
    # A word that is always typed, or never, is still not certain.
    mean = (typed.total() + 1) / (there.total() + 2)
    weights = {word: (typed[word] + _PRIOR * mean) / (there[word] + _PRIOR) for word in keywords.words}
    return KeywordSet(keywords.words, weights)


def _keywords_in(text: str, keywords: KeywordSet) -> frozenset[str]:
    runs = ([fold_unit(text[unit.start : unit.end]) for unit in run] for run in text_runs(text))
    return frozenset("".join(run[first:end]) for run in runs for first, end in keywords.matches(run))
