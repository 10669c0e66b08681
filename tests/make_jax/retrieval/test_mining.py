"""Mining: never a known positive, the nearest of the rest, and as many as the rules say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.ragged import Ragged
from make_jax.objectives.keywords import have_all_words
from make_jax.retrieval.mining import Known, Mined, MiningRules, Words, mine, score_limits

N, E = 30, 4


def unit(rng: np.random.Generator, count: int) -> np.ndarray:
    vectors = rng.normal(size=(count, E)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def exact(products: np.ndarray):
    def search(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        scores = queries @ products.T
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, rows, axis=1), rows

    return search


def table(pairs: list[tuple[int, int]]) -> dict[str, np.ndarray]:
    queries, products = np.array(pairs, np.int32).reshape(-1, 2).T
    return {"query_index": queries, "product_index": products}


LOGS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, N - 1)), min_size=1, max_size=150)
RULES = st.builds(
    MiningRules,
    depth=st.integers(3, 40),
    per_query=st.integers(1, 9),
    skip_top=st.integers(0, 2),
    title_mask=st.booleans(),
    below_positive=st.none() | st.floats(0.3, 1),
    seed=st.integers(0, 99),
)


def mined(
    log: list[tuple[int, int]], pseudo: list[tuple[int, int]], rules: MiningRules, query_keys: np.ndarray
) -> tuple[Mined, np.ndarray, np.ndarray, np.ndarray, Words]:
    rng = np.random.default_rng(len(log))
    products = unit(rng, N)
    tables = [table(log), table(pseudo)]
    keys = np.unique(query_keys[tables[0]["query_index"]])
    vectors = unit(rng, len(keys))
    known = Known.of(keys, tables, query_keys, N)
    positive = known.mean_scores(vectors, products, np.arange(N))
    words = some_words(rng, len(keys))
    looked_at = words if rules.title_mask else None
    found = mine(exact(products), vectors, known, rules, score_limits(rules, positive), looked_at)
    return found, keys, vectors, products, words


def some_words(rng: np.random.Generator, queries: int, titles: int = N) -> Words:
    """A few words, unknown ones among them, and texts without any."""
    lengths = rng.integers(0, 4, titles)
    return Words(
        rng.integers(-1, 4, (queries, 3)).astype(np.int32) * (rng.random((queries, 3)) < 0.6),
        Ragged(rng.integers(1, 4, lengths.sum()).astype(np.int32), np.concatenate([[0], np.cumsum(lengths)])),
    )


def names(words: Words, query: int, row: int) -> bool:
    asked = set(words.queries[query].tolist()) - {0}
    return bool(asked) and asked <= set(words.titles.values[slice(*words.titles.splits[row : row + 2])].tolist())


@given(LOGS, LOGS, RULES, st.lists(st.integers(0, 7), min_size=12, max_size=12))
@settings(max_examples=100, deadline=None)
def test_no_known_positive_and_nothing_but_the_rules(
    log: list[tuple[int, int]], pseudo: list[tuple[int, int]], rules: MiningRules, query_keys: list[int]
) -> None:
    equal = np.array(query_keys)
    found, keys, vectors, products, words = mined(log, pseudo, rules, equal)
    refused_known = refused_named = refused_close = 0
    for query, key in enumerate(keys):
        positives = {row for q, row in log + pseudo if equal[q] == key}
        scores = products @ vectors[query]
        order = np.argsort(-scores, kind="stable")
        free = [row for row in order if row not in positives]
        last = free[rules.depth - 1] if len(free) >= rules.depth else None
        looked_at = order[: list(order).index(last)] if last is not None else order
        refused_known += sum(row in positives for row in looked_at)
        allowed = free[rules.skip_top : rules.depth]
        if rules.title_mask:
            refused_named += sum(names(words, query, row) for row in allowed)
            allowed = [row for row in allowed if not names(words, query, row)]
        if rules.below_positive is not None:
            mean = np.mean([scores[row] for row in positives])
            limit = mean - (1 - rules.below_positive) * abs(mean)
            refused_close += sum(scores[row] > limit for row in allowed)
            allowed = [row for row in allowed if scores[row] <= limit]
        taken = found.row[found.query == query].tolist()
        assert not positives & set(taken)
        assert set(taken) <= set(allowed)
        assert len(set(taken)) == len(taken) == min(rules.per_query, len(allowed))
        assert taken == [row for row in order if row in taken]
        np.testing.assert_allclose(found.score[found.query == query], scores[taken], rtol=1e-5, atol=1e-6)
    assert (found.known, found.named, found.close) == (refused_known, refused_named, refused_close)
    assert (np.diff(found.query) >= 0).all()


def test_the_draw_follows_the_seed_and_reaches_all() -> None:
    def draw(seed: int) -> list[int]:
        rules = MiningRules(depth=10, per_query=2, title_mask=False, seed=seed)
        return mined([(0, 3), (1, 4)], [], rules, np.arange(12))[0].row.tolist()

    draws = [draw(seed) for seed in range(40)]
    assert draw(7) == draws[7]
    assert len({row for draw in draws for row in draw[:2]}) == 10


def test_missing_results_are_no_products() -> None:
    def short(queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        rows = np.full((len(queries), k), -1)
        rows[:, 0] = 5
        return np.where(rows < 0, -np.inf, 0.5).astype(np.float32), rows

    known = Known.of(np.array([0, 1]), [table([(0, 5), (1, 6)])], np.arange(2), N)
    found = mine(short, np.zeros((2, E), np.float32), known, MiningRules(), np.full(2, np.inf))
    assert (found.query.tolist(), found.row.tolist(), found.known) == ([1], [5], 1)


def test_positives_without_a_vector_set_no_limit() -> None:
    known = Known.of(np.array([0, 1]), [table([(0, 1), (0, 2), (1, 2)])], np.arange(2), 3)
    vectors, products = np.eye(2, dtype=np.float32), np.array([[0.6, 0.8], [-0.8, 0.6]], np.float32)
    mean = known.mean_scores(vectors, products, np.array([0, 1, -1]))
    assert mean.tolist() == pytest.approx([-0.8, np.inf])
    limits = score_limits(MiningRules(below_positive=0.5), mean)
    assert limits.tolist() == pytest.approx([-1.2, np.inf])


def test_titles_name_queries_as_in_the_loss() -> None:
    words = some_words(np.random.default_rng(1), 200, 200)
    assert (words.titles.lengths() == 0).any()
    assert (words.queries == 0).all(axis=1).any()
    titles = np.zeros((200, 3), np.int32)
    for row, keys in enumerate(np.split(words.titles.values, words.titles.splits[1:-1])):
        titles[row, : len(keys)] = keys
    query, row = (grid.ravel() for grid in np.indices((200, 200)))  # more pairs than are compared at a time
    found = words.named(query, row).reshape(200, 200)
    np.testing.assert_array_equal(found, have_all_words(words.queries, titles))
    assert 0 < found.sum() < found.size
    assert words.named(query[:0], row[:0]).shape == (0,)
