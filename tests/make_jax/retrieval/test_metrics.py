from __future__ import annotations

import doctest
import math
from pathlib import Path

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from make_jax.errors import UserError
from make_jax.retrieval.metrics import MetricTable, Qrels, evaluate_rankings, rows_of

KS = (1, 3, 10)


@st.composite
def judged_rankings(draw, max_grade: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Full rankings int[Nq, N] of a small catalogue, and grades int[Nq, N]."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    queries, products = draw(st.integers(1, 5)), draw(st.integers(1, 25))
    share = draw(st.sampled_from([0.1, 0.4, 0.9]))
    grades = rng.integers(0, max_grade + 1, (queries, products)) * (rng.random((queries, products)) < share)
    grades[0, 0] = max_grade  # so that at least one query counts
    return np.stack([rng.permutation(products) for _ in range(queries)]), grades


def ids(prefix: str, count: int) -> list[str]:
    return [f"{prefix}{i}" for i in range(count)]


def qrels_of(grades: np.ndarray) -> Qrels:
    queries, products = np.indices(grades.shape)
    return Qrels.from_arrays([f"q{q}" for q in queries.ravel()], [f"p{p}" for p in products.ravel()], grades.ravel())


def judge(ranking: np.ndarray, grades: np.ndarray, ks: tuple[int, ...] = KS, relevant_at: int = 2) -> MetricTable:
    queries, products = grades.shape
    return evaluate_rankings(ranking, ids("p", products), qrels_of(grades), ids("q", queries), ks, relevant_at)


def by_hand(ranked: list[int], judged: list[int], relevant_at: int) -> dict[str, float]:
    """The definitions of docs/metrics.md, as plainly as can be."""
    n = sum(grade >= relevant_at for grade in judged)
    hit = [grade >= relevant_at for grade in ranked]

    def dcg(grades: list[int]) -> float:
        return sum((2**grade - 1) / math.log2(i + 1) for i, grade in enumerate(grades, start=1))

    metrics = {"r_precision": sum(hit[:n]) / n, "mrr": 0.0}
    for k in KS:
        metrics[f"ndcg@{k}"] = dcg(ranked[:k]) / dcg(sorted(judged, reverse=True)[:k])
        metrics[f"p@{k}"] = metrics[f"recall@{k}"] = sum(hit[:k]) / min(k, n)
        metrics[f"recall_plain@{k}"] = sum(hit[:k]) / n
        metrics[f"hit_rate@{k}"] = float(any(hit[:k]))
    if any(hit):
        metrics["mrr"] = 1 / (hit.index(True) + 1)
    return metrics


@settings(deadline=None, max_examples=60)
@given(judged_rankings())
def test_equals_the_definitions(case: tuple[np.ndarray, np.ndarray]) -> None:
    ranking, grades = case
    table = judge(ranking, grades)
    for q in range(len(grades)):
        if not (grades[q] >= 2).any():
            assert all(np.isnan(values[q]) for values in table.values.values())
            continue
        expected = by_hand(grades[q][ranking[q]].tolist(), grades[q].tolist(), 2)
        assert {name: values[q] for name, values in table.values.items()} == pytest.approx(expected)


@settings(deadline=None, max_examples=40)
@given(judged_rankings())
def test_equals_pytrec_eval(case: tuple[np.ndarray, np.ndarray]) -> None:
    ranking, grades = case
    table = judge(ranking, grades)
    run = {f"q{q}": {f"p{p}": float(-i) for i, p in enumerate(row)} for q, row in enumerate(ranking)}
    qrel = {f"q{q}": {f"p{p}": int(g) for p, g in enumerate(row)} for q, row in enumerate(grades)}
    gains = {q: {p: 2**g - 1 for p, g in row.items()} for q, row in qrel.items()}
    measures = {"Rprec", "recip_rank", "P.1,3,10", "recall.1,3,10", "success.1,3,10"}
    binary = pytrec_eval.RelevanceEvaluator(qrel, measures, relevance_level=2).evaluate(run)
    graded = pytrec_eval.RelevanceEvaluator(gains, {"ndcg_cut.1,3,10"}).evaluate(run)
    for q in np.flatnonzero(table.relevant > 0):
        theirs, n = binary[f"q{q}"], table.relevant[q]
        expected = {"r_precision": theirs["Rprec"], "mrr": theirs["recip_rank"]}
        for k in KS:
            expected[f"ndcg@{k}"] = graded[f"q{q}"][f"ndcg_cut_{k}"]
            expected[f"p@{k}"] = expected[f"recall@{k}"] = theirs[f"P_{k}"] * k / min(k, n)
            expected[f"recall_plain@{k}"] = theirs[f"recall_{k}"]
            expected[f"hit_rate@{k}"] = theirs[f"success_{k}"]
        assert {name: values[q] for name, values in table.values.items()} == pytest.approx(expected)


@settings(deadline=None, max_examples=30)
@given(judged_rankings(max_grade=1))
def test_binary_grades_make_grade_one_relevant(case: tuple[np.ndarray, np.ndarray]) -> None:
    ranking, grades = case
    table = judge(ranking, grades)
    assert table.relevant_at == 1
    np.testing.assert_array_equal(table.relevant, grades.sum(axis=1))
    np.testing.assert_array_equal(table.values["p@3"], judge(ranking, grades * 2).values["p@3"])


@settings(deadline=None, max_examples=30)
@given(judged_rankings(), st.integers(0, 2**32 - 1))
def test_padding_takes_no_place(case: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    ranking, grades = case
    rng = np.random.default_rng(seed)
    padded = np.full((len(ranking), ranking.shape[1] + 4), -1)
    for row, ranked in zip(padded, ranking, strict=True):
        row[np.sort(rng.choice(len(row), len(ranked), replace=False))] = ranked
    expected, found = judge(ranking, grades), judge(padded, grades)
    for name, values in expected.values.items():
        np.testing.assert_array_equal(found.values[name], values)


def test_the_documented_example() -> None:
    result = doctest.testfile(str(Path(__file__).parents[3] / "docs" / "metrics.md"), module_relative=False)
    assert result.attempted > 5
    assert result.failed == 0


def test_perfect_ranking_scores_one_everywhere() -> None:
    grades = np.array([[2, 2, 1, 0, 0]])
    table = judge(np.array([[1, 0, 2, 4, 3]]), grades, ks=(1, 2, 5))
    assert {name for name, mean in table.means().items() if mean != 1} == {"recall_plain@1"}


def test_queries_without_relevant_products_are_left_out_and_counted() -> None:
    grades = np.array([[2, 0], [1, 0], [2, 1]])
    table = judge(np.array([[0, 1], [0, 1], [1, 0]]), grades, ks=(1,))
    assert table.left_out == 1
    assert table.means()["p@1"] == 0.5
    assert table.means(where=np.array([True, True, False]))["p@1"] == 1
    assert math.isnan(table.means(where=np.array([False, True, False]))["p@1"])


def test_products_missing_from_the_catalogue_count_as_not_found() -> None:
    qrels = Qrels.from_arrays(["q", "q", "q"], ["here", "gone", "irrelevant"], [2, 2, 0])
    table = evaluate_rankings(np.array([[0]]), ["here"], qrels, ["q"], ks=(1,))
    assert table.missing_products == 1
    assert table.values["r_precision"][0] == 0.5


def test_shuffled_judgements_and_unjudged_queries_change_nothing() -> None:
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 3, (4, 30))
    q, p = (axis.ravel() for axis in np.indices(grades.shape))
    order = rng.permutation(q.size)
    shuffled = Qrels.from_arrays([f"q{i}" for i in q[order]], [f"p{i}" for i in p[order]], grades.ravel()[order])
    ranking = np.stack([rng.permutation(30) for _ in range(5)])
    table = evaluate_rankings(ranking, ids("p", 30), shuffled, [*ids("q", 4), "never judged"], KS)
    assert table.left_out == 1
    np.testing.assert_array_equal(table.values["ndcg@10"][:4], judge(ranking[:4], grades).values["ndcg@10"])


def test_depth_is_that_of_the_queries_asked() -> None:
    grades = np.array([[2] * 7 + [1] * 3, [2] + [0] * 9])
    qrels = qrels_of(grades)
    assert qrels.depth(["q0", "q1"], ks=(2,)) == 7
    assert qrels.depth(["q0"], ks=(2,), relevant_at=1) == 10
    assert qrels.depth(["q1", "unknown"], ks=(2, 3)) == 3


def test_refuses_shallow_rankings() -> None:
    with pytest.raises(UserError, match=r"1 deep .* need 3"):
        judge(np.array([[0]]), np.array([[2, 2, 2, 0]]), ks=(1,))


def test_refuses_repeated_products() -> None:
    with pytest.raises(UserError, match=r"'q1'.*'p2' is ranked twice, first at 1"):
        judge(np.array([[0, 1, 2], [2, 1, 2]]), np.array([[2, 0, 0], [0, 0, 0]]))


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        (np.array([[0, 1, 3]]), "row 3 of a catalogue of 3"),
        (np.array([0, 1, 2]), "one row per query"),
        (np.array([[0, 1, 2]] * 2), "for 1 queries"),
    ],
)
def test_refuses_rankings_that_do_not_fit(ranking: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        judge(ranking, np.array([[2, 0, 0]]))


def test_refuses_judgements_of_other_queries() -> None:
    qrels = Qrels.from_arrays(["other"], ["p0"], [2])
    with pytest.raises(UserError, match="same query_id"):
        evaluate_rankings(np.array([[0]]), ["p0"], qrels, ["q"])


@pytest.mark.parametrize("grade", [-1, 0.5, 31, float("nan")])
def test_refuses_bad_grades(grade: float) -> None:
    with pytest.raises(UserError, match=r"qrels row 1 \(query 'b'\).*from 0 to 30"):
        Qrels.from_arrays(["a", "b"], ["p", "p"], [1, grade])


def test_refuses_contradicting_judgements_and_repeated_ids() -> None:
    with pytest.raises(UserError, match="'a' judges product 'p' twice"):
        Qrels.from_arrays(["a", "b", "a"], ["p", "p", "p"], [2, 1, 1])
    with pytest.raises(UserError, match="2 query ids, 1 product ids"):
        Qrels.from_arrays(["a", "b"], ["p"], [2])
    qrels = Qrels.from_arrays(["a"], ["p"], [2])
    with pytest.raises(UserError, match="catalogue: id 'p' occurs twice"):
        evaluate_rankings(np.array([[0]]), ["p", "p"], qrels, ["a"])
    with pytest.raises(UserError, match="queries: id 'a' occurs twice"):
        evaluate_rankings(np.array([[0], [0]]), ["p"], qrels, ["a", "a"])


def test_rows_of_refuses_unknown_products() -> None:
    with pytest.raises(UserError, match="ranking 1: product 'z' is not in the catalogue of 2"):
        rows_of([["a"], ["b", "z"]], ["a", "b"], depth=2)
