"""What is in each batch, from tables alone: a pure function of (seed, step), the same however many hosts share it."""

from __future__ import annotations

import itertools
import sys
import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, FeedOptions, Sampling
from data_pipelines.order import pair_weights
from data_pipelines.plans import Plan, TrainPlans
from data_pipelines.ragged import Ragged
from data_pipelines.side_ids import SideColumns, SideTable

PRODUCTS, CLICKED, QUERIES, PAIRS, PSEUDO = 60, 45, 30, 150, 20
SHAPE = BatchShape(max_query_tokens=6, max_title_tokens=12, image_size=(4, 4))


@dataclass
class Tables:
    """Random tables; the last 15 products are in no click and have pseudo queries, the last 8 queries."""

    interactions: dict[str, np.ndarray]
    pseudo_pairs: dict[str, np.ndarray]
    query_ids: Ragged
    query_keys: np.ndarray
    title_tokens: np.ndarray
    product_groups: np.ndarray | None
    num_products: int = PRODUCTS
    pad_id: int = 1

    def balanced(self, weights: np.ndarray) -> np.ndarray:
        return weights

    def side_table(self, side: SideColumns) -> SideTable:
        return SideTable((), ())


def tables(streamed: bool = False) -> Tables:
    rng = np.random.default_rng(0)
    seen = rng.choice((QUERIES - 8) * CLICKED, PAIRS, replace=False)
    pairs = {
        "query_index": seen // CLICKED,
        "product_index": seen % CLICKED,
        "clicks": rng.integers(1, 20, PAIRS),
        "purchases": rng.integers(0, 3, PAIRS),
        "last_day": rng.integers(-1, 40, PAIRS),
    }
    cold = np.sort(rng.choice(np.arange(CLICKED, PRODUCTS), PSEUDO))
    pseudo = {"query_index": rng.integers(QUERIES - 8, QUERIES, PSEUDO), "product_index": cold}
    lengths = rng.integers(3, 9, QUERIES)
    return Tables(
        {name: values.astype(np.int32) for name, values in pairs.items()},
        {name: values.astype(np.int32) for name, values in pseudo.items()},
        Ragged(rng.integers(5, 99, lengths.sum()).astype(np.int32), np.cumsum([0, *lengths])),
        (np.arange(QUERIES) // 2).astype(np.int32),
        rng.integers(0, 15, PRODUCTS).astype(np.int32),
        np.repeat(np.arange(10, dtype=np.int32), 6) if streamed else None,
    )


def plans(
    data: Tables, shape: BatchShape = SHAPE, host: int = 0, hosts: int = 1, batch_size: int = 8, **changes: Any
) -> TrainPlans:
    return TrainPlans(data, Sampling(batch_size, **{"seed": 3, **changes}), shape, host, hosts)


def assert_same(ours: Plan, theirs: Plan) -> None:
    assert ours.title_tokens == theirs.title_tokens
    np.testing.assert_array_equal(ours.rows, theirs.rows)
    assert ours.keys is not None
    assert theirs.keys is not None
    np.testing.assert_array_equal(ours.keys, theirs.keys)
    assert ours.arrays.keys() == theirs.arrays.keys()
    for name, array in ours.arrays.items():
        assert array.dtype == theirs.arrays[name].dtype
        np.testing.assert_array_equal(array, theirs.arrays[name])


def joined(parts: list[Plan]) -> Plan:
    (title_tokens,) = {part.title_tokens for part in parts}
    arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
    keys = np.concatenate([part.keys for part in parts if part.keys is not None])
    return Plan(np.concatenate([part.rows for part in parts]), arrays, title_tokens, keys)


@settings(deadline=None, max_examples=60)
@given(
    streamed=st.booleans(),
    step=st.one_of(st.integers(0, 60), st.integers(10**6, 10**6 + 99)),
    hosts=st.sampled_from([1, 2, 4]),
    cold_share=st.sampled_from([0.0, 0.3]),
    pseudo_share=st.sampled_from([0.0, 0.2]),
    query_swap=st.sampled_from([0.0, 0.5]),
    recency_half_life=st.sampled_from([None, 7.0]),
    length_multiple=st.sampled_from([0, 1, 4]),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_step_is_the_same_whenever_it_is_asked_for_and_however_many_hosts_share_it(
    streamed: bool, step: int, hosts: int, length_multiple: int, **sampling: Any
) -> None:
    data = tables(streamed)
    shape = BatchShape(6, 12, (4, 4), length_multiple=length_multiple)
    one = plans(data, shape, **sampling)
    for earlier in range(3):
        one(earlier)
    parts = [plans(data, shape, host, hosts, **sampling)(step) for host in range(hosts)]
    assert_same(joined(parts), one(step))


@pytest.mark.parametrize("streamed", [False, True])
def test_a_late_step_is_as_much_work_as_the_first(streamed: bool) -> None:
    data = tables(streamed)

    def work(step: int) -> tuple[int, int]:
        """Calls made and bytes held at once."""
        fresh, calls = plans(data, cold_share=0.2), 0

        def count(_frame: Any, event: str, _argument: Any) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        tracemalloc.start()
        sys.setprofile(count)
        try:
            fresh(step)
        finally:
            sys.setprofile(None)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return calls, peak

    work(0)  # what is imported or cached once
    first, late = work(0), work(10**6)
    # A batch may lie in one epoch or in two, and in a few groups more or less.
    assert late[0] < 3 * first[0]
    assert late[1] < 3 * first[1] + 10_000


@pytest.mark.parametrize("streamed", [False, True])
def test_a_row_is_a_pair_of_the_log_with_its_query_and_the_products_other_queries(streamed: bool) -> None:
    data = tables(streamed)
    pairs = set(
        zip(data.interactions["query_index"].tolist(), data.interactions["product_index"].tolist(), strict=True)
    )
    clicks: dict[int, Counter[int]] = {}
    for query, product, count in zip(
        *(data.interactions[name].tolist() for name in ("query_index", "product_index", "clicks")), strict=True
    ):
        clicks.setdefault(product, Counter())[int(data.query_keys[query])] += count
    texts = [part.tolist() for part in np.split(data.query_ids.values, data.query_ids.splits[1:-1])]
    planned, drawn = plans(data, max_product_queries=2), set()
    for step in range(60):
        plan = planned(step)
        for row, product in enumerate(plan.rows.tolist()):
            ids = plan.arrays["query_ids"][row].tolist()
            [query] = {
                query
                for query, at in pairs
                if at == product and cut(texts[query], 6) == ids and data.query_keys[query] == key_of(plan, row)
            }
            drawn.add((query, product))
            assert plan.arrays["product_key"][row] == product
            best = sorted(clicks[product].items(), key=lambda item: (-item[1], item[0]))[:2]
            keys = [key for key, _ in best]
            assert plan.arrays["product_queries"][row].tolist() == keys + [-1] * (2 - len(keys))
    assert len(drawn) > 0.9 * PAIRS
    truncated = sum(len(keys) > 2 for keys in clicks.values()) / len(clicks)
    assert planned.share_truncated == pytest.approx(truncated)
    assert planned.pairs_per_epoch == PAIRS


def key_of(plan: Plan, row: int) -> int:
    return int(plan.arrays["query_key"][row])


def cut(tokens: list[int], width: int, padding: int = 1) -> list[int]:
    tokens = tokens if len(tokens) <= width else [*tokens[: width - 1], tokens[-1]]
    return tokens + [padding] * (width - len(tokens))


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("cold_share", [0.0, 0.4])
def test_a_batch_says_how_likely_its_products_and_queries_were(streamed: bool, cold_share: float) -> None:
    data, changes = tables(streamed), {"cold_share": cold_share, "recency_half_life": 9.0}
    log = data.interactions
    weights = pair_weights(log, 0.75, 1.0, 9.0)
    pairs = list(zip(log["product_index"].tolist(), log["query_index"].tolist(), weights / weights.sum(), strict=True))
    pseudo = zip(data.pseudo_pairs["product_index"].tolist(), data.pseudo_pairs["query_index"].tolist(), strict=True)
    shares = [(product, query, share * (1 - cold_share)) for product, query, share in pairs]
    shares += [(product, query, cold_share / PSEUDO) for product, query in pseudo]
    planned, seen = plans(data, **changes), 0
    for step in range(40):
        plan = planned(step)
        for row, product in enumerate(plan.rows.tolist()):
            of_product = sum(share for other, _, share in shares if other == product)
            of_query = sum(share for _, query, share in shares if data.query_keys[query] == key_of(plan, row))
            assert plan.arrays["product_log_q"][row] == pytest.approx(np.log(of_product), abs=1e-4)
            assert plan.arrays["query_log_q"][row] == pytest.approx(np.log(of_query), abs=1e-4)
            seen += product >= CLICKED
    assert (seen > 0) == (cold_share > 0)


@pytest.mark.parametrize("streamed", [False, True])
def test_cold_products_come_with_their_share_under_queries_of_their_own(streamed: bool) -> None:
    data, share, steps = tables(streamed), 0.25, 400
    own = set(
        zip(
            data.pseudo_pairs["product_index"].tolist(),
            data.query_keys[data.pseudo_pairs["query_index"]].tolist(),
            strict=True,
        )
    )
    planned, cold = plans(data, cold_share=share), []
    for step in range(steps):
        plan = planned(step)
        for row in np.flatnonzero(plan.rows >= CLICKED).tolist():
            cold.append((int(plan.rows[row]), key_of(plan, row)))
            assert key_of(plan, row) in plan.arrays["product_queries"][row]
    assert set(cold) == own
    draws = steps * 8
    assert abs(len(cold) - share * draws) < 4 * (draws * share * (1 - share)) ** 0.5
    without = plans(data)
    assert all(without(step).rows.max() < CLICKED for step in range(steps))
    assert without.pairs_per_epoch == planned.pairs_per_epoch - PSEUDO


@pytest.mark.parametrize(("cold_share", "pseudo_share"), [(0.0, 0.3), (0.2, 0.4), (0.2, 0.0)])
def test_any_product_comes_under_queries_of_its_title_as_often_as_asked(cold_share: float, pseudo_share: float) -> None:
    data, steps = tables(), 600
    pseudo, warm = data.pseudo_pairs, PSEUDO // 2
    pseudo["product_index"][:warm] = np.arange(warm)  # ten pseudo pairs are of products that were clicked
    planned, drawn = plans(data, cold_share=cold_share, pseudo_share=pseudo_share), Counter[str]()
    made_up = set(data.query_keys[pseudo["query_index"]].tolist())  # under which nobody clicked anything
    for step in range(steps):
        plan = planned(step)
        for row, product in enumerate(plan.rows.tolist()):
            if key_of(plan, row) in made_up:
                drawn["warm" if product < CLICKED else "cold"] += 1
                assert key_of(plan, row) in plan.arrays["product_queries"][row]
            else:
                assert product < CLICKED
    draws = steps * 8
    assert drawn["warm"] / draws == pytest.approx(pseudo_share / 2, abs=0.02)
    assert drawn["cold"] / draws == pytest.approx(cold_share + pseudo_share / 2, abs=0.02)


def test_where_no_product_is_cold_the_share_changes_nothing() -> None:
    data = tables()
    data.pseudo_pairs = {name: values[:0] for name, values in data.pseudo_pairs.items()}
    with_share, without = plans(data, cold_share=0.5), plans(data)
    for step in range(5):
        assert_same(with_share(step), without(step))


def test_old_clicks_are_drawn_less_often() -> None:
    data = tables()
    newest = data.interactions["last_day"] == data.interactions["last_day"].max()
    products = set(data.interactions["product_index"][newest].tolist())

    def drawn(**changes: Any) -> int:
        planned = plans(data, **changes)
        return sum(int(row) in products for step in range(100) for row in planned(step).rows)

    assert drawn(recency_half_life=1.0) > 2 * drawn()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=8), st.integers(0, 20), st.integers(3, 32))
def test_lengths_are_rounded_up_to_a_multiple_and_hold_every_text(
    lengths: list[int], multiple: int, longest: int
) -> None:
    padded = BatchShape(3, longest, (4, 4), length_multiple=multiple).padded(np.array(lengths), longest)
    assert 3 <= padded <= longest
    assert padded >= min(max(lengths), longest)
    if multiple == 0:
        assert padded == longest
    elif padded not in (3, longest):
        assert padded % multiple == 0
        assert padded - multiple < max(*lengths, 3)


def test_short_batches_are_the_long_ones_without_padding_and_the_whole_batch_decides() -> None:
    data = tables()
    data.title_tokens[:] = np.arange(PRODUCTS) % 11
    short = BatchShape(6, 12, (4, 4), length_multiple=2)
    lengths = set()
    for step in range(30):
        full = plans(data)(step)
        parts = [plans(data, short, host, 2)(step) for host in range(2)]
        brief = joined(parts)
        width = brief.arrays["query_ids"].shape[1]
        np.testing.assert_array_equal(brief.arrays["query_ids"], full.arrays["query_ids"][:, :width])
        assert (full.arrays["query_ids"][:, width:] == data.pad_id).all()
        longest = int(data.title_tokens[full.rows].max())
        assert brief.title_tokens == max(3, -(-longest // 2) * 2)
        lengths.add((width, brief.title_tokens))
    assert len(lengths) > 1


def test_every_position_of_the_order_has_a_key_of_its_own() -> None:
    keys = [plans(tables())(step).keys for step in range(4)]
    assert all(part is not None for part in keys)
    assert np.concatenate([part for part in keys if part is not None]).tolist() == [[3, i] for i in range(32)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: BatchShape(2, 12, (4, 4)), "max_query_tokens=2 must be at least 3"),
        (lambda: BatchShape(6, 0, (4, 4)), "max_title_tokens=0 must be at least 3"),
        (lambda: BatchShape(6, 12, (4, 4), num_images=-1), "num_images=-1 must be at least 0"),
        (lambda: BatchShape(6, 12, (4, 4), length_multiple=-1), "length_multiple=-1 must be at least 0"),
        (lambda: BatchShape(6, 12, (4, 4), num_images=1, num_regions=2), "num_images=1 and num_regions=2"),
        (lambda: BatchShape(6, 12, (4, 4), num_images=0), "num_images=0 and num_regions=0"),
        (lambda: FeedOptions(prefetch=0), "prefetch=0 must be at least 1"),
        (lambda: plans(tables(), max_product_queries=0), "max_product_queries=0 must be at least 1"),
        (lambda: plans(tables(), batch_size=0), "batch_size=0"),
        (lambda: plans(tables(), hosts=3), "batch_size=8 cannot be shared evenly by 3 hosts"),
        (lambda: plans(tables(), seed=-1), "seed=-1"),
        (lambda: plans(tables(), cold_share=1.0), "cold_share=1.0"),
        (lambda: plans(tables(), pseudo_share=1.0), "pseudo_share=1.0"),
        (lambda: plans(tables(), query_swap=1.5), "query_swap=1.5"),
        (lambda: plans(tables(), recency_half_life=0.0), "recency_half_life=0.0"),
    ],
)
def test_settings_that_cannot_be(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_without_clicks_the_products_come_under_queries_of_their_own(streamed: bool, share: float) -> None:
    data = tables(streamed)
    data.interactions = {name: values[:0] for name, values in data.interactions.items()}
    planned = plans(data, cold_share=share)
    assert planned.pairs_per_epoch == PSEUDO
    drawn = Counter(row for step in range(5 * PSEUDO // 4) for row in planned(step).rows.tolist())  # ten epochs
    pairs = Counter(data.pseudo_pairs["product_index"].tolist())
    assert drawn == {product: 10 * count for product, count in pairs.items()}


def test_where_there_is_nothing_to_draw_it_says_so() -> None:
    data = tables()
    for name in ("interactions", "pseudo_pairs"):
        setattr(data, name, {column: values[:0] for column, values in getattr(data, name).items()})
    with pytest.raises(DataError, match="cannot draw training pairs"):
        plans(data, cold_share=0.5)


def test_no_batch_is_twice_the_same() -> None:
    planned = plans(tables())
    batches = [planned(step).rows.tolist() for step in range(40)]
    assert all(one != other for one, other in itertools.combinations(batches, 2))
