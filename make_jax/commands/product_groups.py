"""Groups of products to judge apart: cold ones, those without a picture, those whose titles hide what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from make_jax.commands.catalogue import Catalogue
from make_jax.commands.judging import Judged
from make_jax.errors import UserError
from make_jax.retrieval.bm25 import units
from make_jax.retrieval.groups import Split
from make_jax.retrieval.wording import Phrases, says_all


def read_word_lists(given: Sequence[str]) -> dict[str, Phrases]:
    """Word lists given as NAME=FILE, a word or phrase a line; lines that begin with # are left out.

    Raises:
      UserError: not of that form, a name twice, or a file that cannot be read or has no words.
    """
    lists: dict[str, Phrases] = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not name or not equals or not file or name in lists:
            raise UserError(f"--words {text!r}: give NAME=FILE with a name of its own, as colour=colours.txt")
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--words {text!r}: the file cannot be read ({error}); check the path") from error
        lists[name] = Phrases(line for line in lines if not line.startswith("#"))
        if not len(lists[name]):
            raise UserError(f"--words {text!r}: the file has no words; write one a line")
    return lists


def splits_of(judged: Judged, catalogue: Catalogue, word_lists: Mapping[str, Phrases]) -> list[Split]:
    """Every split of the judged products that can be told from what is known of them."""
    by_product = _ByProduct(judged)
    clicked = catalogue.clicked
    splits = []
    if clicked is not None:
        cold = {product_id: product_id not in clicked for product_id in by_product.judged}
        splits.append(by_product.split("clicks in training", ("never clicked", "clicked"), cold))
    for name, has in (("picture", catalogue.has_image), ("title", catalogue.has_title)):
        lacks = {product_id: not has_it for product_id, has_it in has.items()}
        splits.append(by_product.split(name, (f"no {name}", f"has a {name}"), lacks))
    if catalogue.titles:
        splits += _wording(judged, catalogue.titles, word_lists)
    return splits


class _ByProduct:
    """Makes splits by the product alone; products that the catalogue does not have are in neither group."""

    def __init__(self, judged: Judged) -> None:
        self.judged = set(judged.qrels.product_ids) & set(judged.product_ids)
        self._qrels = judged.qrels

    def split(self, name: str, sides: tuple[str, str], is_first: Mapping[str, bool]) -> Split:
        known = ((p, is_first.get(p)) if p in self.judged else (p, None) for p in self._qrels.product_ids)
        side = np.array([-1 if first is None else int(not first) for _, first in known], np.int8)
        return Split(name, sides, side[self._qrels.products])


def _wording(judged: Judged, titles: Mapping[str, str], word_lists: Mapping[str, Phrases]) -> list[Split]:
    """Splits by whether a title says what the query asks for: every word of it, and what is in the word lists."""
    said = {p: units(titles[p]) for p in set(judged.qrels.product_ids) & set(judged.product_ids) & titles.keys()}
    splits = [
        _by_wording(judged, said, "words of the query", ("title lacks a word", "title has all words"), _each_word)
    ]
    for name, phrases in word_lists.items():
        sides = (f"title hides the {name}", f"title says the {name}")
        splits.append(_by_wording(judged, said, f"{name} in the title", sides, phrases.asked))
    return splits


def _each_word(query: Sequence[str]) -> list[tuple[str, ...]]:
    return [(word,) for word in query]


def _by_wording(
    judged: Judged,
    said: Mapping[str, Sequence[str]],
    name: str,
    sides: tuple[str, str],
    asked: Callable[[Sequence[str]], list[tuple[str, ...]]],
) -> Split:
    """Relevant products whose titles, `said`, lack something of what is asked; neither where nothing is."""
    qrels = judged.qrels
    side = np.full(len(qrels.relevance), -1, np.int8)
    relevant = qrels.relevance >= qrels.threshold()
    for text, span in zip(judged.texts, qrels.spans(judged.query_ids), strict=True):
        wanted = asked(units(text))
        if not wanted:
            continue
        for pair in range(span.start, span.stop):
            title = said.get(qrels.product_ids[qrels.products[pair]]) if relevant[pair] else None
            if title is not None:
                side[pair] = says_all(title, wanted)
    return Split(name, sides, side)
