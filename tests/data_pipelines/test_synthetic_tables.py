"""The tables of the synthetic catalogue, checked against its own truth by brute force."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_pipelines.errors import DataError
from data_pipelines.synthetic import CataloguePaths, SyntheticSpec, products, write_catalogue
from data_pipelines.synthetic.kinds import KINDS
from data_pipelines.synthetic.shoppers import Shoppers
from data_pipelines.synthetic.vocabulary import ATTRIBUTES, LANGUAGES

SPEC = SyntheticSpec(products=2000, chinese_share=0.25, seed=11, careless_share=0.05)
SMALL = SyntheticSpec(products=40, dev_queries=10, image_size=(16, 20))
Rows = list[dict]
Wanted = tuple[str, str, tuple[tuple[str, str], ...]]  # kind, language, sorted (attribute, value)


def rows(path: Path | str) -> Rows:
    return pq.read_table(path).to_pylist()


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> CataloguePaths:
    return write_catalogue(SPEC, tmp_path_factory.mktemp("synthetic") / "catalogue")


@pytest.fixture(scope="module")
def truth(paths: CataloguePaths) -> dict[str, dict]:
    return {row["product_id"]: row for row in rows(paths.truth)}


@pytest.fixture(scope="module")
def meanings() -> dict[str, set[Wanted]]:
    """Every query that the words for kinds and values allow, in every order, and all that it can mean."""
    found: dict[str, set[Wanted]] = defaultdict(set)
    for kind, language in product(KINDS, LANGUAGES):
        names = kind.names(language)
        attributes = [trait.attribute for trait in kind.asked]
        for values in product(*([None, *ATTRIBUTES[attribute]] for attribute in attributes)):
            asked = [(name, value) for name, value in zip(attributes, values, strict=True) if value]
            if len(asked) == 3:
                continue  # nobody asks for so much at once
            wanted = (kind.key, language, tuple(sorted((name, value.key) for name, value in asked)))
            for words in product(names, *(value.words(language) for _, value in asked)):
                for order in permutations(words):
                    found[squeezed(" ".join(order))].add(wanted)
    return found


def squeezed(query: str) -> str:
    """Chinese queries come with and without spaces."""
    return query.lower() if query.isascii() else query.lower().replace(" ", "")


def fits(row: dict, wanted: Wanted) -> bool:
    kind, language, asked = wanted
    return (row["kind"], row["language"]) == (kind, language) and all(row[name] == key for name, key in asked)


def wanted_by(query: dict) -> Wanted:
    return query["kind"], query["language"], tuple(sorted(json.loads(query["asked"]).items()))


def test_products_and_truth_are_those_of_the_stream(paths: CataloguePaths, truth: dict[str, dict]):
    shards = sorted(Path(paths.root).glob("products-*"))
    assert [shard.name for shard in shards] == ["products-00000-of-00001.parquet"]
    table = rows(paths.products.replace("*", "00000-of-00001"))
    stream = list(products(SPEC))
    for row, one in zip(table, stream, strict=True):
        assert row == {name: getattr(one, name) for name in ("product_id", "title", "category", "image")}
    for one, (key, row) in zip(stream, truth.items(), strict=True):
        assert key == one.product_id
        assert (row["kind"], row["asked_in"], row["cold"]) == (one.kind.key, one.kind.asked_in, one.cold)
        for attribute in ATTRIBUTES:
            assert row[attribute] == one.attributes.get(attribute)
            assert row[f"{attribute}_in"] == one.seen.get(attribute)


def test_shards_hold_ten_thousand_products_each(tmp_path: Path):
    spec = SyntheticSpec(products=10_001, queries=50, dev_queries=5, missing_image_share=0.99, image_size=(16, 20))
    made = write_catalogue(spec, tmp_path / "out")
    names = sorted(path.name for path in made.root.glob("products-*"))
    assert names == ["products-00000-of-00002.parquet", "products-00001-of-00002.parquet"]
    assert [pq.read_metadata(made.root / name).num_rows for name in names] == [10_000, 1]
    assert rows(made.root / names[1])[0]["product_id"] == "p0010000"


def test_qrels_are_exactly_what_the_truth_says(paths: CataloguePaths, truth: dict[str, dict]):
    judged: dict[str, dict[str, int]] = defaultdict(dict)
    qrels = rows(paths.qrels)
    for row in qrels:
        judged[row["query_id"]][row["product_id"]] = row["relevance"]
    assert sum(map(len, judged.values())) == len(qrels)
    queries = rows(paths.queries)
    assert len(queries) == SPEC.dev_queries
    for query in queries:
        wanted = wanted_by(query)
        expected = {key: 2 if fits(row, wanted) else 1 for key, row in truth.items() if fits(row, (*wanted[:2], ()))}
        assert judged[query["query_id"]] == expected


def test_dev_queries_have_a_sensible_number_of_answers(paths: CataloguePaths):
    answers = Counter(row["query_id"] for row in rows(paths.qrels) if row["relevance"] == 2)
    counts = np.array([answers[row["query_id"]] for row in rows(paths.queries)])
    assert counts.min() >= 1
    assert np.mean((counts >= 3) & (counts <= 200)) > 0.8


def test_every_query_means_one_thing_and_says_so(paths: CataloguePaths, meanings: dict[str, set[Wanted]]):
    queries = rows(paths.queries)
    assert len({row["query"] for row in queries}) == len(queries)
    for row in queries:
        assert meanings[squeezed(row["query"])] == {wanted_by(row)}
        asked = json.loads(row["asked"])
        assert row["facets"] == "+".join(sorted([*asked, "kind"]))
    for row in rows(paths.interactions):
        assert len(meanings[squeezed(row["query"])]) == 1, row["query"]


def test_asked_in_follows_from_the_facets(paths: CataloguePaths):
    queries = rows(paths.queries)
    for row in queries:
        shown = {facet in ("colour", "pattern") for facet in row["facets"].split("+") if facet != "kind"}
        expected = "both" if len(shown) != 1 else "picture" if True in shown else "title"
        assert row["asked_in"] == expected
    assert min(Counter(row["asked_in"] for row in queries).values()) > 20


def test_novel_queries_ask_for_what_no_training_query_does(paths: CataloguePaths, meanings: dict[str, set[Wanted]]):
    trained = {wanted for row in rows(paths.interactions) for wanted in meanings[squeezed(row["query"])]}
    queries = rows(paths.queries)
    assert all(row["novel"] == (wanted_by(row) not in trained) for row in queries)
    assert 0.05 < np.mean([row["novel"] for row in queries]) < 0.5


def test_clicks_are_noisy_as_asked_and_never_on_cold_products(
    paths: CataloguePaths, truth: dict[str, dict], meanings: dict[str, set[Wanted]]
):
    good = bad = bought_good = bought_bad = 0
    log = rows(paths.interactions)
    for row in log:
        target = truth[row["product_id"]]
        (wanted,) = meanings[squeezed(row["query"])]
        assert not target["cold"]
        assert target["language"] == wanted[1]
        assert 0 <= row["purchases"] <= row["clicks"]
        if fits(target, wanted):
            good, bought_good = good + row["clicks"], bought_good + row["purchases"]
        else:
            bad, bought_bad = bad + row["clicks"], bought_bad + row["purchases"]
    total = good + bad
    assert 0.8 < total / (SPEC.clicks_per_product * SPEC.products) < 1.1
    assert abs(bad / total - SPEC.careless_share) < 0.008
    assert abs(bought_good / good - 0.15) < 0.02
    assert bought_bad / bad < 0.05
    assert {row["day"] for row in log} == set(range(1, 29))
    keys = {(row["query"], row["product_id"], row["day"]) for row in log}
    assert len(keys) == len(log)


def test_popularity_has_a_long_tail(paths: CataloguePaths, truth: dict[str, dict]):
    clicks: Counter[str] = Counter()
    for row in rows(paths.interactions):
        clicks[row["product_id"]] += row["clicks"]
    ranked = np.array(sorted(clicks.values(), reverse=True))
    warm = sum(not row["cold"] for row in truth.values())
    head = ranked[: warm // 10].sum() / ranked.sum()
    assert 0.25 < head < 0.6, "a tenth of the products draw far more than a tenth of the clicks"
    assert len(ranked) > 0.9 * warm


def test_a_catalogue_without_queries_is_written(tmp_path: Path):
    spec = SyntheticSpec(products=5, queries=0, dev_queries=0, image_size=(16, 20))
    made = write_catalogue(spec, tmp_path / "out")
    assert rows(made.interactions) == rows(made.queries) == rows(made.qrels) == []


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_spec_is_written_again_to_the_same_bytes(tmp_path: Path):
    write_catalogue(SMALL, tmp_path / "out")
    first = contents(tmp_path / "out")
    (tmp_path / "out" / "truth.parquet").write_bytes(b"damaged")
    write_catalogue(SMALL, tmp_path / "out")
    assert contents(tmp_path / "out") == first
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_taken_and_parents_are_made(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    write_catalogue(SMALL, tmp_path / "empty")
    write_catalogue(SMALL, tmp_path / "deep" / "er")
    assert contents(tmp_path / "empty") == contents(tmp_path / "deep" / "er")


def test_other_peoples_files_are_refused_and_left_alone(tmp_path: Path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match=r"holds files but no synthetic\.json"):
        write_catalogue(SMALL, tmp_path)
    with pytest.raises(DataError, match="is a file, not a directory"):
        write_catalogue(SMALL, tmp_path / "thesis.txt")
    assert contents(tmp_path) == {"thesis.txt": b"years of work"}


def test_a_catalogue_of_another_spec_is_refused_naming_the_difference(tmp_path: Path):
    write_catalogue(SMALL, tmp_path / "out")
    other = SyntheticSpec(products=40, dev_queries=10, image_size=(16, 20), seed=3)
    with pytest.raises(DataError, match=r"another spec \(seed=0 against 3\)"):
        write_catalogue(other, tmp_path / "out")
    (tmp_path / "out" / "synthetic.json").write_text("[]")
    with pytest.raises(DataError, match="cannot be read"):
        write_catalogue(SMALL, tmp_path / "out")


def test_too_few_products_for_the_queries_leave_nothing_behind(tmp_path: Path):
    with pytest.raises(DataError, match=r"products=1 give only \d+ distinct queries, not dev_queries=500"):
        write_catalogue(SyntheticSpec(products=1, dev_queries=500), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_halfway_leaves_the_old_catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_catalogue(SMALL, tmp_path / "out")
    before = contents(tmp_path / "out")

    def full_disk(self: Shoppers) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Shoppers, "clicks", full_disk)
    with pytest.raises(OSError, match="no space left"):
        write_catalogue(SMALL, tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
