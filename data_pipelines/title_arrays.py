"""What a batch holds of its titles and regions, from what is stored of the products; needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.masking import mask_words
from data_pipelines.tokenizer import TextTokenizer
from data_pipelines.word_keys import word_keys


@dataclass(frozen=True)
class TitleOutput:
    """Which arrays of the titles a batch holds besides title_ids.

    Attributes:
      spans: also title_words and title_keywords.
      mask_share: of the words, the share hidden in masked_title_ids and asked for in title_targets; 0 for neither.
      word_keys: also title_word_keys.
      tokenizer: needed to mask, and for keys of words.

    Raises:
      DataError: words are to be hidden, or keys of them given, without a tokenizer.
    """

    spans: bool = False
    mask_share: float = 0.0
    word_keys: bool = False
    tokenizer: TextTokenizer | None = None

    def __post_init__(self) -> None:
        if self.mask_share and self.tokenizer is None:
            raise DataError(f"mask_share={self.mask_share} needs the tokenizer, which knows what hides a word; pass it")
        if self.word_keys and self.tokenizer is None:
            raise DataError("word_keys needs the tokenizer, which knows what is unknown to it; pass it")

    def arrays(
        self, ids: np.ndarray, words: np.ndarray, keywords: np.ndarray, keys: np.ndarray | None
    ) -> dict[str, np.ndarray]:
        """The arrays of n titles.

        Args:
          ids: int32[n, T].
          words: int32[n, T], see `ParsedProducts`.
          keywords: bool[n, T], likewise.
          keys: int64[n, 2], decides which words are hidden; None where none are.

        Raises:
          DataError: words cannot be masked.
        """
        found = {"title_ids": ids}
        if self.spans:
            found |= {"title_words": words, "title_keywords": keywords}
        if self.word_keys and self.tokenizer is not None:
            found["title_word_keys"] = word_keys(ids, words, self.tokenizer.special_ids)
        if self.mask_share and self.tokenizer is not None and keys is not None:
            tokenizer = self.tokenizer
            masked, targets = mask_words(
                ids,
                words,
                keys,
                self.mask_share,
                tokenizer.mask_id,
                tokenizer.vocab_size,
                tokenizer.special_ids,
                prefer=keywords,
            )
            found |= {"masked_title_ids": masked, "title_targets": targets}
        return found


def region_arrays(regions: Sequence[bytes], num_regions: int, width: int) -> dict[str, np.ndarray]:
    """Region features in place of pixels.

    Args:
      regions: B matrices float16 [any, F] as bytes, b"" for none; those beyond R are left out.
      num_regions: R.
      width: F.

    Returns:
      image float32[B, R, F], 0 where there is no region, and has_image bool[B, R].
    """
    image = np.zeros((len(regions), num_regions, width), np.float32)
    has_image = np.zeros((len(regions), num_regions), bool)
    for number, stored in enumerate(regions):
        found = np.frombuffer(stored, np.float16).reshape(-1, width)[:num_regions]
        image[number, : len(found)] = found
        has_image[number, : len(found)] = True
    return {"image": image, "has_image": has_image}
