"""The words of all titles as keys, to find those that name all words of a query; needs no TensorFlow for a cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from data_pipelines.cache import CachedData
from data_pipelines.prepared import ProductData
from data_pipelines.ragged import Ragged, pad_tokens
from data_pipelines.tokenizer import TextTokenizer
from data_pipelines.word_keys import word_keys

if TYPE_CHECKING:
    from data_pipelines.stored import Stored

_AT_ONCE = 256  # titles; stored ones are read with their pictures


def title_words(data: ProductData, tokenizer: TextTokenizer) -> Ragged:
    """The different words of each of N whole titles, int32 keys above 0, as `word_keys` makes them.

    Words that are unknown to the tokenizer are left out, and titles that cannot be read have none.

    Args:
      data: prepared, mixed or cached data.
      tokenizer: the one of the data.
    """
    values, lengths = [], []
    for first in range(0, data.num_products, _AT_ONCE):
        rows = np.arange(first, min(first + _AT_ONCE, data.num_products))
        keys = np.sort(word_keys(*_tokens(data, rows), tokenizer.special_ids), axis=1)
        new = (keys > 0) & (keys != np.pad(keys, [(0, 0), (1, 0)])[:, :-1])
        values.append(keys[new])
        lengths.append(new.sum(axis=1))
    return Ragged(np.concatenate(values), np.concatenate([[0], np.cumsum(np.concatenate(lengths))]))


def _tokens(data: ProductData, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of titles, and the word that each belongs to: int32[n, T] each."""
    longest = int(data.title_tokens[rows].max(initial=1))
    if isinstance(data, CachedData):
        return (
            pad_tokens(data.titles.take(rows), longest, data.pad_id),
            pad_tokens(data.title_words.take(rows), longest, -1),
        )
    from data_pipelines.stored import read_products  # brings TensorFlow, which caches do without

    found = read_products(cast("Stored", data), rows, longest, data.pad_id)
    return found.title_ids, found.title_words
