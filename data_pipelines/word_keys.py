"""Words as numbers, so that a device can tell whether a title has all words of a query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.hashing import hash_keys
from data_pipelines.interactions import MAX_QUERY_TOKENS
from data_pipelines.masking import anywhere_in_word
from data_pipelines.ragged import Ragged, pad_tokens
from data_pipelines.tokenizer import TextTokenizer

_AT_ONCE = 4096  # queries; a tokenizer splits them among its threads, and numpy takes as long for one as for many
_KEPT = 1 << 18  # queries whose keys are remembered; finding them again takes a tokenizer


def word_keys(ids: np.ndarray, words: np.ndarray, special_ids: Sequence[int]) -> np.ndarray:
    """The key of the word that each token belongs to; words of the same tokens have the same one.

    Being 31 bits of a hash, they take a title of 20 words for having a word that it lacks once in 100 million.

    Args:
      ids: int32[B, T].
      words: int32[B, T], the word that each token belongs to, -1 for special tokens and padding.
      special_ids: ids that say nothing of a word, such as that of unknown characters.

    Returns:
      int32[B, T], above 0; -1 for words with a special token in them, which equal no word, 0 where there is no word.
    """
    begins = words != np.pad(words, [(0, 0), (1, 0)], constant_values=-2)[:, :-1]
    begins[:, :1] = True
    first = np.flatnonzero(begins)
    if not len(first):
        return np.zeros(ids.shape, np.int32)
    word = np.cumsum(begins) - 1
    place = np.arange(ids.size) - first[word]
    sums = np.add.reduceat(hash_keys(ids.ravel(), place), first)  # wraps around on purpose
    keys = np.maximum(sums >> np.uint64(33), 1).astype(np.int32)[word].reshape(ids.shape)
    keys = np.where(anywhere_in_word(words, np.isin(ids, special_ids)), -1, keys)
    return np.where(words >= 0, keys, 0).astype(np.int32)


class QueryWordKeys:
    """The word keys of queries; symbols are no words that a title would have to have."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        """Knows no query yet; `tokenizer` is the one of the data."""
        self._tokenizer = tokenizer
        self._known: dict[str, np.ndarray] = {}

    def __call__(self, texts: Sequence[str], width: int) -> np.ndarray:
        """int32[n, width] of n texts, 0 beyond a text's end; see `word_keys`."""
        return pad_tokens(self.of_all(texts), width, 0)

    def of_all(self, texts: Sequence[str]) -> Ragged:
        """The word keys of any number of queries: int32 each."""
        keys = []
        for first in range(0, len(texts), _AT_ONCE):
            some = texts[first : first + _AT_ONCE]
            new = [text for text in dict.fromkeys(some) if text not in self._known]
            found = dict(zip(new, self._find_keys(new), strict=True))
            keys += [found[text] if text in found else self._known[text] for text in some]
            if len(self._known) + len(found) > _KEPT:
                self._known.clear()
            self._known |= found
        return Ragged(np.concatenate([np.zeros(0, np.int32), *keys]), np.cumsum([0, *map(len, keys)]))

    def _find_keys(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not texts:
            return []
        encoded = self._tokenizer.encode_words(texts, MAX_QUERY_TOKENS)
        lengths = np.array([len(query.ids) for query in encoded])
        ids, words = np.zeros((len(texts), lengths.max()), np.int32), np.full((len(texts), lengths.max()), -1)
        for row, (text, query) in enumerate(zip(texts, encoded, strict=True)):
            letters = [any(map(str.isalnum, text[start:end])) for start, end in query.spans.tolist()]
            ids[row, : len(letters)] = query.ids
            words[row, : len(letters)] = np.where(letters, query.words, -1)
        keys = word_keys(ids, words, self._tokenizer.special_ids)
        return [row[:length].copy() for row, length in zip(keys, lengths, strict=True)]  # keeps no padding alive
