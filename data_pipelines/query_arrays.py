"""What a batch holds of its queries besides their ids, when words of them are to be predicted."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from data_pipelines.interactions import MAX_QUERY_TOKENS
from data_pipelines.masking import mask_words
from data_pipelines.ragged import Ragged, pad_tokens
from data_pipelines.tokenizer import TextTokenizer

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
