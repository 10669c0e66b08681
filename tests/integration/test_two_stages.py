"""Two stages as a user runs them: train, mine, train with what was mined, go on; and nonsense refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from command_line import TINY, call, losses, refused

from data_pipelines.keywords import words
from data_pipelines.prepared import open_data
from make_jax.run import read_metrics

SECOND = ("--set", "objectives.hard_negatives=2", "--set", "training.steps=4", "--set", "optimizer.learning_rate=1e-4")


@pytest.fixture(scope="module")
def mined(trained: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("mined") / "negatives"
    result = call("mine", "--run", trained, "--data", tiny_data, "--out", out, "--depth", 20, "--per-query", 4)
    assert result.exit_code == 0, (result.output, result.exception)
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert counts["known"] > 0
    assert f"{counts['negatives']:,} hard negatives for" in result.output
    assert f"{counts['known']:,} candidates refused as known positives" in result.output
    assert counts["named"] > 0
    assert f"{counts['named']:,} as naming all words of the query" in result.output
    return out


def rows_of(negatives: Path) -> dict[str, list[object]]:
    return pq.read_table(negatives / "negatives.parquet").to_pydict()


def test_nothing_mined_was_ever_clicked_under_the_query(mined: Path, tiny_data: Path) -> None:
    data, found = open_data(tiny_data), rows_of(mined)
    positives = set()
    for pairs in (data.interactions, data.pseudo_pairs):
        positives |= set(zip(data.query_keys[pairs["query_index"]], pairs["product_index"], strict=True))
    assert positives.isdisjoint(zip(found["query_key"], found["product_row"], strict=True))
    assert found["product_id"] == data.product_ids[found["product_row"]].tolist()
    per_query = np.unique(found["query_key"], return_counts=True)[1]
    assert per_query.max() == 4
    clicked = np.unique(data.query_keys[data.interactions["query_index"]])
    assert set(found["query_key"]) <= set(clicked.tolist())


def test_nothing_mined_names_all_words_unless_it_may(
    mined: Path, trained: Path, indexed: Path, tiny_data: Path, tmp_path: Path
) -> None:
    data = open_data(tiny_data)
    titles = [set(words(record["title"])) for record in data.records(range(data.num_products))]
    asked = {key: set(words(text)) for key, text in zip(data.query_keys.tolist(), data.queries, strict=True)}

    def naming(negatives: Path) -> int:
        found = rows_of(negatives)
        pairs = zip(found["query_key"], found["product_row"], strict=True)
        return sum(asked[key] <= titles[row] for key, row in pairs)

    assert naming(mined) == 0
    any_title = ("--run", trained, "--data", tiny_data, "--index", indexed, "--depth", 20, "--no-title-mask")
    result = call("mine", *any_title, "--out", tmp_path / "any")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "0 as naming all words of the query" in result.output
    assert naming(tmp_path / "any") > 0
    for out, masked in ((mined, True), (tmp_path / "any", False)):
        assert json.loads((out / "manifest.json").read_text())["options"]["title_mask"] is masked


def test_an_index_of_the_catalogue_gives_the_same(
    mined: Path, trained: Path, indexed: Path, tiny_data: Path, tmp_path: Path
) -> None:
    arguments = ("--run", trained, "--data", tiny_data, "--index", indexed, "--depth", 20, "--per-query", 4)
    result = call("mine", *arguments, "--out", tmp_path / "again")
    assert result.exit_code == 0, (result.output, result.exception)
    ours, theirs = rows_of(tmp_path / "again"), rows_of(mined)
    same = set(zip(ours["query_key"], ours["product_row"], strict=True)) & set(
        zip(theirs["query_key"], theirs["product_row"], strict=True)
    )
    assert len(same) > 0.98 * len(theirs["query_key"])  # batches round otherwise, which may swap the 20th and 21st


def test_the_second_stage_starts_from_the_first_and_goes_on(
    mined: Path, trained: Path, tiny_data: Path, tmp_path: Path
) -> None:
    # Without layers, which take long to compile; what is left of the first stage is taken over.
    layers = [
        f"model.{tower}.layers=0" for tower in (*(f"{t}.transformer" for t in ("query", "title", "image")), "fusion")
    ]
    side = ("model.side.columns=category,product_id", "model.side.buckets=64")
    settings = (*layers, *side, "training.checkpoint_every=2", "training.log_every=1")
    habits = [part for setting in settings for part in ("--set", setting)]
    command = ("train", TINY, "--data", tiny_data, "--init-from", trained, "--negatives", mined, *SECOND, *habits)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    result = call(*command, "--workdir", whole)
    assert result.exit_code == 0, (result.output, result.exception)
    record = next(r for r in read_metrics(whole / "metrics.jsonl") if "hard_negative_fill" in r)
    assert 0 < record["hard_negative_fill"] <= 1
    told = json.loads((whole / "run.json").read_text())
    assert told["negatives"]["path"] == str(mined)
    assert told["init_from"]["loaded"] > 0
    assert "side/category/embedding" in told["init_from"]["fresh"]
    # As if it had been stopped after step 2.
    shutil.copytree(whole, parted)
    for name in ("model.safetensors", "result.json"):
        (parted / name).unlink()
    shutil.rmtree(parted / "checkpoints" / "4")
    result = call(*command, "--workdir", parted)
    assert result.exit_code == 0, (result.output, result.exception)
    assert losses(parted) == losses(whole)
    assert (parted / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    others = tmp_path / "others"
    arguments = ("--run", trained, "--data", tiny_data, "--out", others, "--depth", 30, "--seed", 1)
    assert call("mine", *arguments).exit_code == 0
    moved = tmp_path / "moved"
    shutil.move(mined, moved)
    shutil.copytree(others, mined)
    try:
        refused(call(*command, "--workdir", parted), "was trained with other hard negatives", str(mined))
    finally:
        shutil.rmtree(mined)
        shutil.move(moved, mined)


def test_nonsense_is_refused_before_anything_is_written(
    mined: Path, trained: Path, tiny_data: Path, indexed: Path, embedded: Path, tiny_tables, tmp_path: Path
) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    train = ("train", TINY, "--data", tiny_data, "--workdir", run)
    refused(call(*train, *SECOND), "there is no --negatives; make some with make-jax mine")
    refused(call(*train, "--negatives", mined), "objectives.hard_negatives is 0")
    refused(call(*train, "--negatives", tmp_path, *SECOND), "there are no mined negatives")
    refused(call(*train, *SECOND, "--set", "objectives.qic=0"), "objectives.hard_negatives is 2, but objectives.qic")
    negative_weight = ("--set", "objectives.hard_negative_weight=0")
    refused(call(*train, *SECOND, *negative_weight), "objectives.hard_negative_weight is 0")
    sigmoid = ("--set", "objectives.contrast=sigmoid", "--set", "objectives.hard_negative_weight=2")
    refused(call(*train, *SECOND, *sigmoid), "weighs every pair alike")
    other = tmp_path / "data"
    prepare = ("prepare", "--products", tiny_tables.products, "--out", other, "--tokenizer", tiny_data / "tokenizer")
    assert call(*prepare).exit_code == 0
    changed = ("train", TINY, "--data", other, "--workdir", run)
    refused(call(*changed, "--negatives", mined, *SECOND), "was mined from data", str(other))
    assert not run.exists()
    mine = ("mine", "--run", trained, "--out", out)
    refused(call(*mine, "--data", other), "there are no clicks, so no product is known to be unwanted")
    refused(call(*mine, "--data", tiny_data, "--depth", 5, "--skip-top", 5), "--skip-top 5 leaves nothing of --depth 5")
    few, half, whole = tmp_path / "few", tmp_path / "half.parquet", Path(tiny_tables.products)
    pq.write_table(pq.read_table(min(whole.parent.glob(whole.name))).slice(0, 50), half)
    log = ("--interactions", tiny_tables.interactions, "--max-bad-share", 1)
    prepared = call("prepare", "--products", half, *log, "--out", few, "--tokenizer", tiny_data / "tokenizer")
    assert prepared.exit_code == 0, prepared.output
    refused(call(*mine, "--data", few, "--index", indexed), f"which {few} does not have")
    assert not out.exists()
