"""Words as numbers, so that a device can tell whether a title has all words of a query."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from data_pipelines.hashing import hash_keys
from data_pipelines.interactions import MAX_QUERY_TOKENS
from data_pipelines.masking import anywhere_in_word
from data_pipelines.ragged import Ragged, pad_tokens
from data_pipelines.tokenizer import EncodedText, TextTokenizer

_AT_ONCE = 4096  # queries; a tokenizer splits them among its threads
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
        self._keys = lru_cache(maxsize=_KEPT)(self._find_keys)

    def __call__(self, texts: Sequence[str], width: int) -> np.ndarray:
        """int32[n, width] of n texts, 0 beyond a text's end; see `word_keys`."""
        keys = [self._keys(text) for text in texts]
        return pad_tokens(Ragged(np.concatenate(keys), np.cumsum([0, *map(len, keys)])), width, 0)

    def of_all(self, texts: Sequence[str]) -> Ragged:
        """The word keys of many queries, none of which is remembered: int32 each."""
        keys = []
        for first in range(0, len(texts), _AT_ONCE):
            some = texts[first : first + _AT_ONCE]
            encoded = self._tokenizer.encode_words(some, MAX_QUERY_TOKENS)
            keys += [self._keys_of(text, words) for text, words in zip(some, encoded, strict=True)]
        return Ragged(np.concatenate([np.zeros(0, np.int32), *keys]), np.cumsum([0, *map(len, keys)]))

    def _find_keys(self, text: str) -> np.ndarray:
        [encoded] = self._tokenizer.encode_words([text], MAX_QUERY_TOKENS)
        return self._keys_of(text, encoded)

    def _keys_of(self, text: str, encoded: EncodedText) -> np.ndarray:
        letters = [any(map(str.isalnum, text[start:end])) for start, end in encoded.spans.tolist()]
        words = np.where(np.array(letters, bool), encoded.words, -1)
        return word_keys(encoded.ids[None], words[None], self._tokenizer.special_ids)[0]
