"""Hidden words of queries: whole ones, of the texts that were tokenised, decided by the key alone."""

from __future__ import annotations

import numpy as np
import pytest
from prepared_files import word_tokenizer
from tokenizers import Tokenizer, models

from data_pipelines.errors import DataError
from data_pipelines.masking import mask_words
from data_pipelines.query_arrays import QueryMasking
from data_pipelines.tokenizer import TextTokenizer
from data_pipelines.tokenizer_training import train_tokenizer

TEXTS = ["reds runners shoes", "blue", "", "ringer-shirts", "红色 shirt"] * 20


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    """Of so few entries that many words are several tokens."""
    return train_tokenizer(["red running shoes blue shirt 红色"] * 5, vocab_size=64)


def keys(count: int = len(TEXTS)) -> np.ndarray:
    return np.stack([np.full(count, 3), np.arange(count)], axis=1)


def masked(tokenizer: TextTokenizer, width: int = 24, share: float = 0.4) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = tokenizer.encode_padded(TEXTS, width)
    found = QueryMasking(share, tokenizer).arrays(TEXTS, ids, keys())
    return ids, found["masked_query_ids"], found["query_targets"]


def test_whole_words_are_hidden_and_asked_for(tokenizer: TextTokenizer) -> None:
    ids, hidden_ids, targets = masked(tokenizer)
    hidden = targets >= 0
    np.testing.assert_array_equal(targets[hidden], ids[hidden])
    np.testing.assert_array_equal(hidden_ids[~hidden], ids[~hidden])
    assert (hidden_ids == tokenizer.mask_id).sum() > 0.5 * hidden.sum()
    several = 0
    for row, encoded in enumerate(tokenizer.encode_words(TEXTS, 24)):
        if not len(encoded.words):
            assert not hidden[row].any()
            continue
        for word in set(encoded.words.tolist()) - {-1}:
            tokens = hidden[row, : len(encoded.words)][encoded.words == word]
            assert tokens.all() or not tokens.any()
            several += len(tokens) > 1 and tokens.all()
        assert not hidden[row, : len(encoded.words)][encoded.words == -1].any()
    assert several > 5


def test_a_row_depends_on_its_text_and_key_only(tokenizer: TextTokenizer) -> None:
    ids, hidden_ids, targets = masked(tokenizer)
    some = np.array([41, 3, 41])
    found = QueryMasking(0.4, tokenizer).arrays([TEXTS[row] for row in some], ids[some], keys()[some])
    np.testing.assert_array_equal(found["masked_query_ids"], hidden_ids[some])
    np.testing.assert_array_equal(found["query_targets"], targets[some])
    assert len({targets[row].tobytes() for row in range(0, len(TEXTS), 5)}) > 1


def test_a_query_is_not_masked_as_the_title_beside_it() -> None:
    tokenizer, texts = word_tokenizer(), [" ".join(map(str, range(20)))] * 50
    ids = tokenizer.encode_padded(texts, 24)
    words = np.stack([encoded.words for encoded in tokenizer.encode_words(texts, 24)])
    _, title = mask_words(ids[:, :22], words, keys(50), 0.3, tokenizer.mask_id, 90, tokenizer.special_ids)
    query = QueryMasking(0.3, tokenizer).arrays(texts, ids, keys(50))["query_targets"][:, :22]
    together = ((title >= 0) & (query >= 0)).mean()
    assert together == pytest.approx((title >= 0).mean() * (query >= 0).mean(), abs=0.03)


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    plain = TextTokenizer(Tokenizer(models.WordLevel({"[PAD]": 0, "red": 1}, "[PAD]")), {"pad_token": "[PAD]"})
    with pytest.raises(DataError, match="no mask token"):
        QueryMasking(0.15, plain).arrays(["red"], plain.encode_padded(["red"], 4), keys(1))
