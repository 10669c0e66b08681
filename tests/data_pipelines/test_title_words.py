"""The words of titles, from whatever form of data, against the tokenizer's own."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from catalogue_files import product
from prepared_files import title, word_tokenizer, write_data

from data_pipelines.cache import open_cache
from data_pipelines.cache_writer import write_cache
from data_pipelines.dataset import open_prepared
from data_pipelines.feed_settings import BatchShape
from data_pipelines.mixture import MixedData
from data_pipelines.shards import Storage
from data_pipelines.title_words import title_words
from data_pipelines.word_keys import QueryWordKeys

COUNT = 40


def changes(tokenizer) -> dict[int, dict]:
    """Titles as the tokenizer has them; 3 has none, 5 says a word twice, 7 has one that the tokenizer does not know."""
    texts = [product(row)["title"] for row in range(COUNT)]
    texts[5], texts[7] = "red red shirt", "ξενος blue mug"
    found = {}
    for row, encoded in enumerate(tokenizer.encode_words(texts, 64)):
        arrays = {**title(*encoded.ids), "title_words": encoded.words}
        found[row] = {"title": texts[row], **arrays}
    return found | {3: {"title": "", **title()}}


@pytest.mark.parametrize("storage", get_args(Storage))
def test_the_words_of_every_title_once(storage: Storage, tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    rows = changes(tokenizer)
    data = open_prepared(write_data(tmp_path / "DATA", COUNT, 7, storage, rows, tokenizer))
    found, keys = title_words(data, tokenizer), QueryWordKeys(tokenizer)
    assert len(found.splits) == COUNT + 1
    for row, words in enumerate(np.split(found.values, found.splits[1:-1])):
        known = {word for word in rows[row]["title"].split() if word != "ξενος"}
        assert len(words) == len(known)
        assert set(words.tolist()) == {int(keys([word], 8).max()) for word in known}
    mixed = title_words(MixedData([data, data]), tokenizer)
    np.testing.assert_array_equal(mixed.values, np.tile(found.values, 2))
    write_cache(data, tmp_path / "CACHE", BatchShape(8, 8, (10, 8)), progress=False)
    for ours, theirs in zip(title_words(open_cache(tmp_path / "CACHE"), tokenizer), found, strict=True):
        np.testing.assert_array_equal(ours, theirs)
