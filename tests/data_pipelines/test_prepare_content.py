"""What `prepare` writes of each product: pictures, regions, tokens, and queries made of its title."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow_datasets as tfds
from catalogue_files import picture, product, small_catalogue, write_jsonl, write_products
from tokenizers import Tokenizer, models, pre_tokenizers

from data_pipelines.dataset import PreparedData, open_prepared
from data_pipelines.errors import DataError
from data_pipelines.keywords import query_keyword_key, words
from data_pipelines.prepare import prepare
from data_pipelines.records import parse_products
from data_pipelines.tokenizer import TextTokenizer, load_tokenizer


def prepared(out: Path, sources: dict[str, Any], **options: Any) -> PreparedData:
    return open_prepared(prepare(**sources, out=out, **({"progress": False, "workers": 1} | options)).out)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    folder = tmp_path_factory.mktemp("content")
    return prepared(folder / "DATA", small_catalogue(folder / "in"))


def test_titles_are_tokenised_with_their_words_and_keywords(small: PreparedData) -> None:
    table = pq.read_table(Path(small.path) / "products.parquet")
    assert table.schema == pa.schema(
        [
            ("product_id", pa.string()),
            ("category", pa.string()),
            ("title_tokens", pa.int32()),
            ("num_images", pa.int32()),
        ]
    )
    tokenizer = load_tokenizer(small.tokenizer_path)
    titles = [product(i)["title"] for i in range(40)]
    encoded = tokenizer.encode(titles, 512)
    assert table["title_tokens"].to_pylist() == [len(ids) for ids in encoded]
    parsed = parse_products(small.shards.read(np.arange(40)), 512, tokenizer.pad_id)
    assert parsed.product_ids == table["product_id"].to_pylist()
    for i, title in enumerate(titles):
        length = len(encoded[i])
        np.testing.assert_array_equal(parsed.title_ids[i, :length], encoded[i])
        assert parsed.title_words[i].max() == len(words(title)) - 1
        # Colours and kinds are in many queries; "no" and the number are in none.
        marked = {
            int(word)
            for word, is_keyword in zip(parsed.title_words[i], parsed.title_keywords[i], strict=True)
            if is_keyword
        }
        assert marked == {0, 1}


def test_pseudo_queries_are_made_for_all_products(small: PreparedData) -> None:
    pairs = small.pseudo_pairs
    assert [pairs[name].dtype for name in ("query_index", "product_index")] == [np.int32, np.int32]
    assert Counter(pairs["product_index"].tolist()) == dict.fromkeys(range(40), 2)
    rows = list(zip(pairs["product_index"].tolist(), pairs["query_index"].tolist(), strict=True))
    assert rows == sorted(set(rows))
    for row, query in rows:
        assert set(words(small.queries[query])) <= set(words(product(row)["title"]))
    assert len(set(small.queries)) == len(small.queries)
    from_log = small.manifest["counts"]["queries"]
    assert set(range(from_log, len(small.queries))) <= set(pairs["query_index"].tolist())
    assert max(small.interactions["query_index"]) == from_log - 1


def test_every_query_has_its_key_and_its_tokens(small: PreparedData) -> None:
    tokenizer = load_tokenizer(small.tokenizer_path)
    keys: dict[str, int] = {}
    for i, query in enumerate(small.queries):
        ids = small.query_ids.values[small.query_ids.splits[i] : small.query_ids.splits[i + 1]]
        np.testing.assert_array_equal(ids, tokenizer.encode([query], 128)[0])
        assert small.query_keys[i] == keys.setdefault(query_keyword_key(query), len(keys))


def test_a_product_without_title_gets_no_pseudo_query(tmp_path: Path) -> None:
    path = write_products(tmp_path / "p.parquet", [product(0, title=None), product(1), product(2)])
    data = prepared(tmp_path / "DATA", {"products": str(path)}, pseudo_queries=1)
    assert data.pseudo_pairs["product_index"].tolist() == [1, 2]
    assert data.title_tokens.tolist()[0] == 0


@pytest.mark.parametrize("storage", ["array_record", "tfrecord"])
def test_several_pictures_of_a_product(tmp_path: Path, storage: str) -> None:
    images = [[picture(1)], [picture(2), picture(3), picture(4)], [], [picture(5), b"broken"]]
    rows = {
        "product_id": [str(i) for i in range(4)],
        "title": ["x"] * 4,
        "image": pa.array(images, pa.list_(pa.binary())),
    }
    pq.write_table(pa.table(rows), tmp_path / "p.parquet")
    sources = {"products": str(tmp_path / "p.parquet")}
    with pytest.raises(DataError, match=r"further images: 33\.3% of 3 rows are bad"):
        prepared(tmp_path / "DATA", sources)
    summary = prepare(
        **sources, out=tmp_path / "DATA", storage=storage, max_bad_share=0.5, workers=1, shard_bytes=900, progress=False
    )
    assert summary.counts["images"] == 5
    assert summary.share_without_image == 0.25
    assert summary.set_aside == {"further images": {"undecodable_image": 1}}
    assert "1 of 3 further images: undecodable_image" in " ".join(summary.text().split())
    assert f" {storage} shards" in summary.text()
    data = open_prepared(tmp_path / "DATA")
    assert (data.storage, data.max_images, data.region_width) == (storage, 3, 0)
    assert data.num_images.tolist() == [1, 3, 0, 1]
    expected = [images[0], images[1], [], images[3][:1]]
    assert [record["images"] for record in data.records(range(4))] == expected
    info = tfds.builder_from_directory(tmp_path / "DATA").info.splits["products"]
    assert info.num_examples == 4
    assert info.num_shards == summary.counts["shards"] > 1
    assert not (tmp_path / "DATA" / "work").exists()


def test_regions_in_place_of_pictures(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float16)
    rows = [{"product_id": str(i), "title": "x", "regions": values[:i].tolist()} for i in range(4)]
    data = prepared(tmp_path / "DATA", {"products": str(write_jsonl(tmp_path / "p.jsonl", rows))})
    assert (data.region_width, data.max_images) == (5, 1)
    parsed = parse_products(data.shards.read(np.arange(4)), 8, 0)
    for i, regions in enumerate(parsed.regions):
        np.testing.assert_array_equal(np.frombuffer(regions, np.float16).reshape(-1, 5), values[:i])
    summary = prepare(products=str(tmp_path / "p.jsonl"), out=tmp_path / "DATA", workers=1, progress=False)
    assert summary.share_without_image == 0.25
    assert "regions 5 values each" in " ".join(summary.text().split())


def test_a_pretrained_tokenizer_is_taken_as_it_is(tmp_path: Path) -> None:
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "red", "shirt"])}
    own = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    own.pre_tokenizer = pre_tokenizers.Whitespace()
    TextTokenizer(own, {"pad_token": "<pad>", "unk_token": "<unk>"}).save(tmp_path / "tokenizer")
    path = write_products(tmp_path / "p.parquet", [product(0, title="red shirt"), product(1, title="red mug")])
    data = prepared(tmp_path / "DATA", {"products": str(path)}, tokenizer=str(tmp_path / "tokenizer"))
    assert [record["title_ids"].tolist() for record in data.records([0, 1])] == [[2, 3], [2, 1]]
    assert data.manifest["counts"]["vocabulary"] == 4
    assert data.manifest["options"]["vocab_size"] is None
    with pytest.raises(DataError, match="none/such"):
        prepared(tmp_path / "other", {"products": str(path)}, tokenizer=str(tmp_path / "none" / "such"))
