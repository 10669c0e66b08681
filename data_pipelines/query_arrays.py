"""What a batch holds of its queries: as they were typed or changed, and with words hidden that are to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from data_pipelines.interactions import MAX_QUERY_TOKENS
from data_pipelines.masking import mask_words
from data_pipelines.query_variation import QueryVariation
from data_pipelines.ragged import Ragged, pad_tokens
from data_pipelines.tokenizer import TextTokenizer
from data_pipelines.word_keys import QueryWordKeys

_QUERIES = 1 << 62  # keeps the choice in a query apart from that in the title beside it
_KEPT = 1 << 18  # queries whose words are remembered; finding them again takes a tokenizer


class QueryMasking:
    """Hides words of queries, as `masking.mask_words` does."""

    def __init__(self, share: float, tokenizer: TextTokenizer) -> None:
        """Finds no words yet.

        Args:
          share: of the words of a query, above 0 and at most 1.
          tokenizer: the one of the data.
        """
        self._share, self._tokenizer = share, tokenizer
        self._words = lru_cache(maxsize=_KEPT)(self._find_words)

    def arrays(self, texts: Sequence[str], ids: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
        """masked_query_ids and query_targets, both int32[n, Q].

        Args:
          texts: n queries.
          ids: int32[n, Q], their padded tokens.
          keys: int64[n, 2], decides which words are hidden.

        Raises:
          DataError: words cannot be masked.
        """
        words = [self._words(text) for text in texts]
        splits = np.cumsum([0, *map(len, words)])
        tokenizer = self._tokenizer
        masked, targets = mask_words(
            ids,
            pad_tokens(Ragged(np.concatenate(words), splits), ids.shape[1], -1),
            keys + np.array([0, _QUERIES]),
            self._share,
            tokenizer.mask_id,
            tokenizer.vocab_size,
            tokenizer.special_ids,
        )
        return {"masked_query_ids": masked, "query_targets": targets}

    def _find_words(self, text: str) -> np.ndarray:
        [encoded] = self._tokenizer.encode_words([text], MAX_QUERY_TOKENS)
        return encoded.words


@dataclass(frozen=True)
class QueryOutput:
    """How a batch shows its queries, and which arrays of them it holds besides query_ids.

    Attributes:
      tokenizer: the one of the data.
      variation: changes what is shown; None for nothing.
      masking: hides words of what is shown; None for no such arrays.
      word_keys: those of what is shown; None for no such array.
    """

    tokenizer: TextTokenizer
    variation: QueryVariation | None = None
    masking: QueryMasking | None = None
    word_keys: QueryWordKeys | None = None

    def arrays(self, texts: Sequence[str], ids: np.ndarray, keys: np.ndarray) -> dict[str, np.ndarray]:
        """The arrays of n queries, query_ids int32[n, Q] among them.

        Args:
          texts: n queries, as they were typed.
          ids: int32[n, Q], their padded tokens.
          keys: int64[n, 2], decides what is changed and hidden.

        Raises:
          DataError: words cannot be masked.
        """
        if self.variation is not None:
            texts, typed = self.variation.vary(texts, keys), texts
            ids = self._tokens_of_changed(texts, typed, ids)
        found = {"query_ids": ids}
        if self.word_keys is not None:
            found["query_word_keys"] = self.word_keys(texts, ids.shape[1])
        if self.masking is not None:
            found |= self.masking.arrays(texts, ids, keys)
        return found

    def _tokens_of_changed(self, texts: Sequence[str], typed: Sequence[str], ids: np.ndarray) -> np.ndarray:
        rows = [row for row, (text, before) in enumerate(zip(texts, typed, strict=True)) if text != before]
        ids = ids.copy()
        ids[rows] = self.tokenizer.encode_padded([texts[row] for row in rows], ids.shape[1])
        return ids
