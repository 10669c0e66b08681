"""BM25: the library's scores against the formula, any script, and a directory that can be trusted."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from make_jax.errors import UserError
from make_jax.retrieval.bm25 import K1, B, Bm25, build_bm25, load_bm25, terms, units

TEXTS = {
    "a": "Navy Blue shirt",
    "b": "Navy shirt for men",
    "c": "红色连衣裙 夏季",
    "d": "",
    "e": "shirt shirt shirt dress",
    "f": "Blue dress",
}


def built(folder: Path, texts: dict[str, str]) -> Bm25:
    build_bm25([(name, [text]) for name, text in texts.items()], folder / "bm25", ["title"])
    return load_bm25(folder / "bm25")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Bm25:
    return built(tmp_path_factory.mktemp("bm25"), TEXTS)


def by_formula(query: str, texts: list[str]) -> np.ndarray:
    """Lucene's BM25, as plainly as can be."""
    documents = [terms(text) for text in texts]
    mean = sum(map(len, documents)) / len(documents)
    scores = np.zeros(len(documents))
    for term in set(terms(query)):
        having = sum(term in document for document in documents)
        idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        for i, document in enumerate(documents):
            count = Counter(document)[term]
            scores[i] += idf * count / (count + K1 * (1 - B + B * len(document) / mean))
    return scores


@pytest.mark.parametrize(
    ("text", "expected_units", "expected_terms"),
    [
        ("Red T-Shirt", ["red", "t", "shirt"], ["red", "t", "shirt"]),
        ("红色裙", ["红", "色", "裙"], ["红", "色", "裙", "红色", "色裙"]),
        ("Ｎｉｋｅ 鞋", ["nike", "鞋"], ["nike", "鞋"]),
        ("🙂 ™", ["tm"], ["tm"]),
        ("", [], []),
    ],
)
def test_terms(text: str, expected_units: list[str], expected_terms: list[str]) -> None:
    assert units(text) == expected_units
    assert terms(text) == expected_terms


words = st.lists(st.sampled_from(["red", "blue", "shirt", "裙子", "men"]), max_size=6).map(" ".join)


@settings(max_examples=20)
@given(texts=st.lists(words, min_size=1, max_size=8), query=words)
def test_scores_are_the_formula(tmp_path_factory: pytest.TempPathFactory, texts: list[str], query: str) -> None:
    texts = [*texts, "red"]
    found = built(tmp_path_factory.mktemp("formula"), {str(i): text for i, text in enumerate(texts)})
    np.testing.assert_allclose(found.scores(query), by_formula(query, texts), atol=1e-5)


def test_search_is_best_first_with_padding_and_ties_by_row(loaded: Bm25) -> None:
    scores, rows = loaded.search(["navy blue", "连衣裙", "🙂 nothing of it", "navy"], 3)
    assert loaded.product_ids[rows[0, :1]].tolist() == ["a"]
    assert loaded.product_ids[rows[1, :1]].tolist() == ["c"]
    assert rows[1].tolist()[1:] == rows[2].tolist()[1:] == [-1, -1]
    assert (np.diff(scores, axis=1) <= 0).all()
    same = loaded.search(["navy"], 6)[1][0]
    assert loaded.product_ids[same[:2]].tolist() == ["a", "b"]  # the shorter title first
    assert (same[2:] == -1).all()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_the_best_rows_are_those_of_a_full_sort(seed: int, k: int) -> None:
    from make_jax.retrieval.bm25 import _best

    scores = np.random.default_rng(seed).integers(0, 4, 10).astype(np.float32)
    full = [row for row in np.lexsort((np.arange(10), -scores)) if scores[row] > 0]
    assert _best(scores, k).tolist() == full[:k]


def test_a_repeated_word_counts_once(loaded: Bm25) -> None:
    np.testing.assert_array_equal(loaded.scores("navy shirt " * 500), loaded.scores("shirt navy"))


def test_over_another_catalogue(loaded: Bm25) -> None:
    view = loaded.over(np.array(["f", "new", "a"], object))
    assert view.scores("blue").tolist() == [loaded.scores("blue")[5], 0, loaded.scores("blue")[0]]
    assert (view.missing, loaded.missing, len(view)) == (1, 0, 3)
    with pytest.raises(UserError, match=r"none of the 1 products.*'x'"):
        loaded.over(np.array(["x"], object))


def test_the_same_products_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = (built(tmp_path / name, TEXTS).path for name in "ab")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert [(first / name).read_bytes() for name in files] == [(second / name).read_bytes() for name in files]
    assert pq.read_table(first / "ids.parquet")["product_id"].to_pylist() == list(TEXTS)


def test_a_directory_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = built(tmp_path, TEXTS).path
    file = next((folder / "bm25s").glob("data*"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match=r"sha256.*make-jax bm25"):
        load_bm25(folder)
    with pytest.raises(UserError, match="not a BM25 directory"):
        load_bm25(tmp_path)


def test_what_cannot_be_built(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none of 2 products has a word in title"):
        build_bm25([("a", [""]), ("b", ["🙂"])], tmp_path / "bm25", ["title"])
    assert not list(tmp_path.iterdir())
    (tmp_path / "bm25").mkdir()
    (tmp_path / "bm25" / "mine").write_text("")
    with pytest.raises(DataError, match="not empty"):
        build_bm25([("a", ["red"])], tmp_path / "bm25", ["title"])
