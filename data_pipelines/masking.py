"""Whole-word masking for masked-language modelling, as a pure function of the texts and their keys."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.hashing import hash_keys, uniform

_MASK, _RANDOM = 0.8, 0.1  # of the chosen words; the rest are kept (BERT, Devlin et al. 2019, section 3.1)
_PREFERENCE = 2.0  # how much likelier a preferred word is
_CHOICE, _FATE, _REPLACEMENT = range(3)  # independent streams of random numbers


def mask_words(
    ids: np.ndarray,
    words: np.ndarray,
    keys: np.ndarray,
    share: float,
    mask_id: int | None,
    vocab_size: int,
    special_ids: Sequence[int],
    prefer: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Hides whole words, which the model is to predict from the rest.

    Each word is chosen with probability `share`; if none is, the one that came closest. Of the chosen words 80 % become
    mask tokens, 10 % random tokens, and 10 % stay as they are. Words with a special token in them (an unknown
    character, say) are left alone, since there is nothing to learn from predicting it. A row depends on its own tokens
    and key only, not on its neighbours, the padding, or who computes it.

    Args:
      ids: int32[B, T].
      words: int32[B, T], the word that each token belongs to, -1 for special tokens and padding.
      keys: int64[B, 2], decides the choice.
      share: the share of words to predict, above 0 and at most 1.
      mask_id: the tokenizer's mask token, None if it has none.
      vocab_size: V.
      special_ids: ids that no word is ever replaced by.
      prefer: bool[B, T], words to choose twice as often as others, at the same share of the row as without; a word is
        preferred if one of its tokens is. None for no preference.

    Returns:
      masked ids int32[B, T], and targets int32[B, T]: the true id where there is something to predict, -1 elsewhere.

    Raises:
      DataError: share out of bounds, or no mask token.
    """
    if not 0 < share <= 1:
        raise DataError(f"the share of words to mask is {share}, but it must be above 0 and at most 1")
    if mask_id is None:
        raise DataError("the tokenizer has no mask token, so words cannot be masked; prepare the data with another one")
    special = np.unique(np.asarray(special_ids, np.int64))
    maskable = (words >= 0) & ~anywhere_in_word(words, np.isin(ids, special))
    word_keys = keys[:, :1], keys[:, 1:], words

    chances = _chances(words, maskable, share, prefer)
    distance = np.where(maskable, uniform(hash_keys(*word_keys, _CHOICE)) / chances, np.inf)
    nearest = distance.min(axis=1, keepdims=True, initial=np.inf)
    chosen = maskable & (distance <= np.maximum(nearest, 1))

    fate = uniform(hash_keys(*word_keys, _FATE))
    masked = np.where(chosen & (fate < _MASK), mask_id, ids)
    at_random = chosen & (fate >= _MASK) & (fate < _MASK + _RANDOM)
    masked = np.where(at_random, _random_ids(keys, ids.shape[1], vocab_size, special), masked)
    return masked.astype(np.int32), np.where(chosen, ids, -1).astype(np.int32)


def anywhere_in_word(words: np.ndarray, flags: np.ndarray) -> np.ndarray:
    """Whether any token of the same word is flagged: bool[B, T]."""
    found = np.zeros((len(words), words.max(initial=-1) + 2), bool)  # the last column is that of -1
    rows, columns = np.nonzero(flags)
    found[rows, words[rows, columns]] = True
    return np.take_along_axis(found, words, axis=1)


def _chances(words: np.ndarray, maskable: np.ndarray, share: float, prefer: np.ndarray | None) -> np.ndarray:
    """How likely each token's word is to be chosen: float64[B, T]; on average over a row's words it is `share`."""
    if prefer is None:
        return np.full(words.shape, share)
    preferred = anywhere_in_word(words, prefer)
    first = maskable & (words != np.pad(words, [(0, 0), (1, 0)], constant_values=-1)[:, :-1])
    count, extra = first.sum(axis=1), (first & preferred).sum(axis=1) * (_PREFERENCE - 1)
    plain = share * count / np.maximum(count + extra, 1)
    return np.clip(plain[:, None] * np.where(preferred, _PREFERENCE, 1), np.finfo(float).tiny, 1)


def _random_ids(keys: np.ndarray, length: int, vocab_size: int, special: np.ndarray) -> np.ndarray:
    """Ids that are not special, int64[B, length]; they depend on a token's place, not on how long the row is."""
    hashes = hash_keys(keys[:, :1], keys[:, 1:], np.arange(length), _REPLACEMENT)
    ranks = (hashes % np.uint64(max(vocab_size - len(special), 1))).astype(np.int64)
    # The n-th id that is not special is n plus the number of special ids before it.
    return ranks + np.searchsorted(special - np.arange(len(special)), ranks, side="right")
