"""Further queries of a product: its own others, as often as the log says, the same from everywhere."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plans import CLICKED, SHAPE, joined, plans, tables

from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape
from data_pipelines.further_queries import NONE, FurtherQueries
from data_pipelines.ragged import pad_tokens

NAMES = ("further_query_ids", "further_query_key", "further_query_log_q")


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=30),
    st.integers(0, 4),
    st.integers(0, 2**40),
)
def test_only_others_of_the_same_product_are_drawn(pairs: list[tuple[int, int]], number: int, position: int) -> None:
    products, weights = np.array(pairs).T
    rows = np.arange(len(pairs))
    table = FurtherQueries(rows + 100, products, weights.astype(float), 7)
    drawn = table.draw(rows, position + rows, 3, number)
    assert drawn.shape == (len(pairs), number)
    for row, found in enumerate(drawn):
        others = {other + 100 for other in rows if products[other] == products[row] and other != row and weights[other]}
        assert set(found.tolist()) <= (others or {NONE})
    np.testing.assert_array_equal(table.draw(rows[1:], position + rows[1:], 3, number), drawn[1:])


def test_each_is_drawn_as_often_as_its_weight_says() -> None:
    products, weights = np.array([0, 1, 0, 0, 2, 0]), np.array([1.0, 7.0, 2.0, 3.0, 1.0, 4.0])
    drawn = FurtherQueries(np.arange(6), products, weights, 3).draw(np.full(20000, 3), np.arange(20000), 0, 2)
    shares = np.bincount(drawn.reshape(-1), minlength=6) / drawn.size
    np.testing.assert_allclose(shares, np.array([1, 0, 2, 0, 0, 4]) / 7, atol=0.01)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_batch_shows_other_queries_of_its_products(streamed: bool) -> None:
    data = tables(streamed)
    log = set(zip(data.interactions["query_index"].tolist(), data.interactions["product_index"].tolist(), strict=True))
    made = plans(data, further_queries=3, cold_share=0.2)
    shown = [made(step) for step in range(20)]
    texts = pad_tokens(data.query_ids, SHAPE.max_query_tokens, data.pad_id)
    for plan in shown:
        keys = plan.arrays["further_query_key"]
        assert keys.shape == (8, 3)
        for row, product in enumerate(plan.rows):
            for key, ids in zip(keys[row], plan.arrays["further_query_ids"][row], strict=True):
                if key != NONE and product < CLICKED:
                    same = [query for query in np.flatnonzero(data.query_keys == key) if (texts[query] == ids).all()]
                    assert any((int(query), int(product)) in log for query in same)
    assert any((plan.arrays["further_query_key"] == NONE).any() for plan in shown)
    without = plans(data, cold_share=0.2)(7).arrays
    rest = {name: array for name, array in shown[7].arrays.items() if name not in NAMES}
    assert without.keys() == rest.keys()
    for name, array in rest.items():
        np.testing.assert_array_equal(array, without[name])


@pytest.mark.parametrize("length_multiple", [0, 2])
def test_any_number_of_hosts_agrees(length_multiple: int) -> None:
    data = tables()
    shape = BatchShape(8, 12, (4, 4), length_multiple=length_multiple)
    for step in (0, 11, 10**6):
        alone = plans(data, shape, further_queries=2)(step)
        together = joined([plans(data, shape, host, 2, further_queries=2)(step) for host in range(2)])
        for name in (*NAMES, "query_ids"):
            np.testing.assert_array_equal(together.arrays[name], alone.arrays[name])
        lengths = alone.arrays["query_ids"].shape[-1], alone.arrays["further_query_ids"].shape[-1]
        assert lengths[0] == lengths[1]


def test_fewer_than_none_is_refused() -> None:
    with pytest.raises(DataError, match="further_queries=-1 must be at least 0"):
        plans(tables(), further_queries=-1)
