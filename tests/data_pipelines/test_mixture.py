"""Several data sets drawn from as one: shares, rows, keys, and what does not fit together."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
from prepared_files import record, title, word_tokenizer, write_data

from data_pipelines.dataset import PreparedData, open_prepared
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, FeedOptions, Sampling
from data_pipelines.input import catalogue_batches, train_batches
from data_pipelines.mixture import MixedData
from data_pipelines.plans import TrainPlans
from data_pipelines.shards import Storage, shard_path

FIRST, SECOND, BATCH = 40, 26, 8
SHAPE = BatchShape(8, 6, (12, 9), num_images=2)
both = pytest.mark.parametrize("storage", get_args(Storage))
Batch = dict[str, np.ndarray]
# The second set's products have another name and title, but clicks under the first one's queries, too.
OTHERS = {row: {"product_id": f"other-{row}", **title(2, 30 + row, 7, 3)} for row in range(SECOND)}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, Storage], Path]:
    folder, tokenizer = tmp_path_factory.mktemp("mixture"), word_tokenizer()
    return {
        (name, storage): write_data(folder / f"{name}-{storage}", count, 7, storage, changes, tokenizer)
        for name, count, changes in (("first", FIRST, None), ("second", SECOND, OTHERS))
        for storage in get_args(Storage)
    }


def parts(roots: dict[tuple[str, Storage], Path], storage: Storage = "array_record") -> list[PreparedData]:
    return [open_prepared(roots[name, storage]) for name in ("first", "second")]


def plans(data: Any, host: int = 0, hosts: int = 1, **changes: Any) -> TrainPlans:
    return TrainPlans(data, Sampling(BATCH, **{"seed": 1, **changes}), SHAPE, host, hosts)


def train(data: Any, planned: TrainPlans, steps: int = 4, share: float = 0.001, **options: Any) -> list[Batch]:
    feed = FeedOptions(threads=1, max_bad_share=share)
    with train_batches(data, planned, num_steps=steps, options=feed, **options) as batches:
        return list(batches)


@both
@pytest.mark.parametrize("weights", [(1.0, 3.0), (7.0, 1.0), None])
def test_each_set_is_drawn_from_by_its_weight(
    roots: dict[tuple[str, Storage], Path], storage: Storage, weights: tuple[float, float] | None
) -> None:
    mixed = MixedData(parts(roots, storage), weights)
    given = weights or (FIRST - 5, SECOND - 5)  # the pairs that each has
    share = given[1] / sum(given)
    np.testing.assert_allclose(mixed.shares, [1 - share, share])
    planned, steps = plans(mixed), 250
    drawn = sum(int((planned(step).rows >= FIRST).sum()) for step in range(steps))
    draws = steps * BATCH
    assert abs(drawn - share * draws) < 4 * (draws * share * (1 - share)) ** 0.5


def test_inside_a_set_pairs_are_drawn_as_without_the_other(roots: dict[tuple[str, Storage], Path]) -> None:
    both_parts = parts(roots)
    mixed, steps = MixedData(both_parts, (1.0, 1.0)), 400

    def rates(data: Any, first: int, count: int) -> np.ndarray:
        planned = plans(data, popularity_power=1.0)
        rows = np.concatenate([planned(step).rows for step in range(steps)]) - first
        found = np.bincount(rows[(rows >= 0) & (rows < count)], minlength=count)
        return found / found.sum()

    for part, first, count in zip(both_parts, (0, FIRST), (FIRST, SECOND), strict=True):
        np.testing.assert_allclose(rates(mixed, first, count), rates(part, 0, count), atol=0.01)


@both
def test_rows_are_those_of_the_sets_end_to_end(roots: dict[tuple[str, Storage], Path], storage: Storage) -> None:
    mixed = MixedData(parts(roots, storage))
    assert mixed.num_products == FIRST + SECOND
    ids = [f"p{row}" for row in range(FIRST)] + [f"other-{row}" for row in range(SECOND)]
    assert mixed.product_ids.tolist() == ids
    titles = [[2, row, row + 1, 3, 1, 1] for row in range(FIRST)] + [[2, 30 + row, 7, 3, 1, 1] for row in range(SECOND)]
    with catalogue_batches(mixed, SHAPE, batch_size=11, start=30) as batches:
        found = [
            (str(name), ids.tolist(), has_image.tolist())
            for batch in batches
            for name, ids, has_image, valid in zip(
                batch["product_id"], batch["title_ids"], batch["has_image"], batch["valid"], strict=True
            )
            if valid
        ]
    has_image = [[True, row % 2 == 1] for row in [*range(FIRST), *range(SECOND)]]
    assert found == list(zip(ids, titles, has_image, strict=True))[30:]
    for batch in train(mixed, plans(mixed, cold_share=0.3), 6):
        assert batch["title_ids"].tolist() == [titles[row] for row in batch["product_key"]]


def test_equal_queries_share_a_key_whichever_set_they_are_in(roots: dict[tuple[str, Storage], Path]) -> None:
    first, second = parts(roots)
    mixed = MixedData([first, second])
    texts = first.queries + second.queries
    assert len(mixed.query_keys) == len(texts)
    for i, text in enumerate(texts):
        for j, other in enumerate(texts):
            equal = sorted(text.split()) == sorted(other.split())
            assert (mixed.query_keys[i] == mixed.query_keys[j]) == equal, (text, other)
    ids = np.split(mixed.query_ids.values, mixed.query_ids.splits[1:-1])
    expected = word_tokenizer().encode(texts, 128)
    assert [part.tolist() for part in ids] == [part.tolist() for part in expected]
    for batch in train(mixed, plans(mixed), 4):
        for row, key in enumerate(batch["query_key"].tolist()):
            assert key in batch["product_queries"][row]


@both
def test_hosts_share_the_batch_of_a_mixture_too(roots: dict[tuple[str, Storage], Path], storage: Storage) -> None:
    mixed = MixedData(parts(roots, storage), (1.0, 2.0))
    whole = train(mixed, plans(mixed, cold_share=0.2))
    shares = [train(mixed, plans(mixed, host, 2, cold_share=0.2)) for host in range(2)]
    for step, batch in enumerate(whole):
        for name, array in batch.items():
            np.testing.assert_array_equal(np.concatenate([share[step][name] for share in shares]), array)
    (late,) = train(mixed, plans(mixed), 1, start_step=10**6)
    (again,) = train(mixed, plans(mixed), 1, start_step=10**6)
    np.testing.assert_array_equal(late["image"], again["image"])


def test_one_set_alone_is_that_set(roots: dict[tuple[str, Storage], Path]) -> None:
    alone = open_prepared(roots["first", "array_record"])
    mixed = MixedData([alone], (2.5,))
    for ours, theirs in zip(train(mixed, plans(mixed)), train(alone, plans(alone)), strict=True):
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array)


@both
def test_a_damaged_shard_is_named_by_its_own_set(
    roots: dict[tuple[str, Storage], Path], storage: Storage, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(roots["second", storage], damaged)
    path = shard_path(damaged, 1, storage)
    whole = bytearray(path.read_bytes())
    whole[whole.index(record(9)["images"][0][-60:]) + 30] ^= 4
    path.write_bytes(whole)
    mixed = MixedData([open_prepared(roots["first", storage]), open_prepared(damaged, checksums=False)])
    first, second = (f"{part.path}/{path.name}" for part in mixed.parts)  # the shards of both have the same names
    assert mixed.shards.locate(FIRST + 9) == (second, 2)
    assert mixed.shards.locate(9) == (first, 2)
    with (
        catalogue_batches(mixed, SHAPE, batch_size=5, options=FeedOptions(max_bad_share=0.0)) as batches,
        pytest.raises(DataError) as error,
    ):
        list(batches)
    assert f": product 'other-9' (record 2 of {second}): " in str(error.value)


def test_dev_queries_are_judged_over_the_first_catalogue(roots: dict[tuple[str, Storage], Path]) -> None:
    mixed = MixedData(parts(roots))
    assert mixed.dev is not None
    assert mixed.dev.num_products == FIRST
    assert mixed.dev.qrels["product_index"].tolist() == list(range(FIRST))


def test_the_fingerprint_tells_mixtures_apart(roots: dict[tuple[str, Storage], Path]) -> None:
    first, second = parts(roots)
    mixtures = [MixedData([first, second], weights) for weights in ((1.0, 1.0), (1.0, 2.0), None)]
    mixtures += [MixedData([second, first], (1.0, 1.0)), MixedData([first], None)]
    assert len({mixture.fingerprint for mixture in mixtures}) == len(mixtures)
    assert MixedData([first, second], (2.0, 2.0)).fingerprint == mixtures[0].fingerprint


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, -2.0), (1.0, float("nan")), (float("inf"), 1.0)])
def test_weights_that_cannot_be(roots: dict[tuple[str, Storage], Path], weights: tuple[float, ...]) -> None:
    with pytest.raises(DataError, match="2 data sets cannot be mixed with weights"):
        MixedData(parts(roots), weights)


def test_sets_that_do_not_fit_together(roots: dict[tuple[str, Storage], Path], tmp_path: Path) -> None:
    first = open_prepared(roots["first", "array_record"])
    streamed = open_prepared(roots["second", "tfrecord"])
    own = open_prepared(write_data(tmp_path / "own", 20))
    regions = {row: {"images": [], "regions": bytes(4)} for row in range(20)}
    detected = open_prepared(
        write_data(tmp_path / "regions", 20, changes=regions, tokenizer=word_tokenizer(), region_width=2)
    )
    for other, parts in (
        (own, ["different tokenizers", "--tokenizer", str(first.tokenizer_path)]),
        (detected, ["region features of width 2", "of width 0"]),
        (streamed, ["stored as tfrecord", "as array_record", "--storage"]),
    ):
        with pytest.raises(DataError) as error:
            MixedData([first, other])
        for part in [first.path, other.path, *parts]:
            assert part in str(error.value)


def test_a_set_without_clicks_is_named(roots: dict[tuple[str, Storage], Path], tmp_path: Path) -> None:
    quiet = tmp_path / "quiet"
    shutil.copytree(roots["second", "array_record"], quiet)
    table = pq.read_table(quiet / "interactions.parquet")
    pq.write_table(table.slice(0, 0), quiet / "interactions.parquet")
    parts = [open_prepared(roots["first", "array_record"]), without_checks(quiet)]
    with pytest.raises(DataError, match=r"cannot be mixed with weights \[35.0, 0.0\]; .*at least one click"):
        MixedData(parts)
    with pytest.raises(DataError, match=f"{quiet} has no clicks to draw; leave it out"):
        plans(MixedData(parts, (1.0, 1.0)))


def without_checks(root: Path) -> PreparedData:
    from data_pipelines.manifest import read_manifest

    return PreparedData(str(root), read_manifest(root), root, {})
