"""Keys of words: equal for equal words, whatever is around them, and for no others."""

from __future__ import annotations

import numpy as np
import pytest

from data_pipelines.query_arrays import QueryOutput
from data_pipelines.query_variation import QueryVariation
from data_pipelines.tokenizer import TextTokenizer
from data_pipelines.tokenizer_training import train_tokenizer
from data_pipelines.word_keys import QueryWordKeys, word_keys

TITLES = ["Red running shoes", "runner's shoe red-blue", "", "红色 shirt", "ringer shirts 100%", "blue blue red"]


@pytest.fixture(scope="module")
def tokenizer() -> TextTokenizer:
    """Of so few entries that many words are several tokens."""
    return train_tokenizer(["red running shoes blue shirt 红色 runner's ringer 100%"] * 5, vocab_size=64)


def title_keys(tokenizer: TextTokenizer, titles: list[str], width: int = 40) -> np.ndarray:
    ids, words = tokenizer.encode_padded(titles, width), np.full((len(titles), width), -1, np.int32)
    for row, encoded in zip(words, tokenizer.encode_words(titles, width), strict=True):
        row[: len(encoded.words)] = encoded.words
    return word_keys(ids, words, tokenizer.special_ids)


def test_equal_words_have_equal_keys_and_no_others(tokenizer: TextTokenizer) -> None:
    keys, of_word = title_keys(tokenizer, TITLES), {}
    for row, encoded in enumerate(tokenizer.encode_words(TITLES, 40)):
        for number in set(encoded.words.tolist()) - {-1}:
            spans = encoded.spans[encoded.words == number]
            found = set(keys[row, : len(encoded.words)][encoded.words == number].tolist())
            assert len(found) == 1
            of_word.setdefault(TITLES[row][spans[0, 0] : spans[-1, 1]].lower(), set()).update(found)
        assert not keys[row, : len(encoded.words)][encoded.words == -1].any()
        assert not keys[row, len(encoded.words) :].any()
    assert {"red", "shoes", "shoe", "shirt", "shirts", "红", "色"} <= set(of_word)
    assert all(len(found) == 1 for found in of_word.values())
    assert len(set.union(*of_word.values())) == len(of_word)
    assert 0 not in set.union(*of_word.values())


def test_a_title_has_the_words_of_a_query_only_whole(tokenizer: TextTokenizer) -> None:
    queries = ["Shoes, RED!", "shoe", "shirt", "red blue", "t"]
    asked, there = QueryWordKeys(tokenizer)(queries, 20), title_keys(tokenizer, TITLES)
    answers = [
        {row for row in range(len(TITLES)) if set(keys.tolist()) - {0} <= set(there[row].tolist())} for keys in asked
    ]
    assert answers == [{0}, {1}, {3}, {1, 5}, set()]


def test_unknown_words_equal_nothing(tokenizer: TextTokenizer) -> None:
    assert set(title_keys(tokenizer, ["ξενος"])[0].tolist()) <= {0, -1}
    assert set(QueryWordKeys(tokenizer)(["ξενος red"], 12)[0].tolist()) > {0, -1}


def test_sizes_of_nothing(tokenizer: TextTokenizer) -> None:
    assert word_keys(np.zeros((0, 4), np.int32), np.zeros((0, 4), np.int32), []).shape == (0, 4)
    np.testing.assert_array_equal(QueryWordKeys(tokenizer)([""], 5), np.zeros((1, 5)))


def test_keys_and_tokens_are_those_of_the_query_that_is_shown(tokenizer: TextTokenizer) -> None:
    texts, width = ["red running shoes", "blue", "", "shirt red"] * 10, 16
    keys = np.stack([np.zeros(40, np.int64), np.arange(40)], axis=1)
    variation, word = QueryVariation(0.5, 0.5), QueryWordKeys(tokenizer)
    ids = tokenizer.encode_padded(texts, width)
    found = QueryOutput(tokenizer, variation, word_keys=word).arrays(texts, ids, keys)
    shown = variation.vary(texts, keys)
    assert shown != texts
    np.testing.assert_array_equal(found["query_ids"], tokenizer.encode_padded(shown, width))
    np.testing.assert_array_equal(found["query_word_keys"], word(shown, width))
    np.testing.assert_array_equal(ids, tokenizer.encode_padded(texts, width))


def test_a_query_is_known_by_the_same_keys_however_many_came_before(
    tokenizer: TextTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = [f"{colour} dress {size}" for colour in ("red", "navy blue", "γκρι") for size in range(5)]
    each = [QueryWordKeys(tokenizer)([query], 12)[0] for query in queries]
    monkeypatch.setattr("data_pipelines.word_keys._KEPT", 4)
    monkeypatch.setattr("data_pipelines.word_keys._AT_ONCE", 3)
    together = QueryWordKeys(tokenizer)
    for _ in range(2):
        np.testing.assert_array_equal(together(queries + queries[:2], 12), each + each[:2])
