"""`prepare` as a whole: complete or absent, the same every time, and honest about what it set aside."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from catalogue_files import PRODUCT_SCHEMA, product, small_catalogue, write_jsonl, write_products

from data_pipelines import prepare as prepare_module
from data_pipelines.dataset import open_prepared
from data_pipelines.errors import DataError
from data_pipelines.prepare import prepare
from data_pipelines.summary import PrepareSummary

REPOSITORY = Path(__file__).parents[2]


def run(out: Path, sources: dict[str, Any], **options: Any) -> PrepareSummary:
    return prepare(**sources, out=out, **({"progress": False, "workers": 1} | options))


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    return small_catalogue(tmp_path / "in")


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def only(folder: Path, *names: str) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted(names)


def test_the_summary_counts_what_was_written(tmp_path: Path, sources: dict[str, Any]) -> None:
    summary = run(tmp_path / "DATA", sources)
    data = open_prepared(tmp_path / "DATA")
    assert summary.out == tmp_path / "DATA"
    assert summary.counts == data.manifest["counts"]
    assert summary.counts["products"] == 40
    assert summary.counts["images"] == 40
    assert summary.counts["queries"] + summary.counts["pseudo_queries"] == len(data.queries)
    assert summary.counts["query_keys"] == len(set(data.query_keys[: summary.counts["queries"]].tolist()))
    assert summary.counts["pseudo_pairs"] == len(data.pseudo_pairs["query_index"]) == 2 * 40
    assert summary.counts["interactions"] == len(data.interactions["clicks"])
    assert (summary.counts["dev_queries"], summary.counts["qrels"]) == (5, 40)
    assert summary.share_cold == pytest.approx(5 / 40)
    assert summary.share_without_image == summary.share_without_title == 0
    lengths = [len(record["title_ids"]) for record in data.records(range(40))]
    assert summary.mean_title_tokens == pytest.approx(np.mean(lengths))
    assert summary.size_bytes == sum(map(len, files_of(tmp_path / "DATA").values()))
    assert summary.set_aside == {}
    assert "in 1 array_record shards" in summary.text()
    assert "1.0 per product" in summary.text()
    assert "nobody clicked 12.5% of the products" in summary.text()
    only(tmp_path, "DATA", "in")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, sources: dict[str, Any]) -> None:
    run(tmp_path / "a", sources, shard_bytes=4_000)
    # In another process, where hashes and protobuf's maps have another order.
    options = {"shard_bytes": 4_000, "workers": 1, "progress": False}
    call = f"prepare(**{sources!r}, out={str(tmp_path / 'b')!r}, **{options!r})"
    code = f"from data_pipelines.prepare import prepare; {call}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)
    first, second = files_of(tmp_path / "a"), files_of(tmp_path / "b")
    assert len(first) > 12
    assert first == second


def test_bad_rows_are_reported_and_the_rest_is_kept(tmp_path: Path, sources: dict[str, Any]) -> None:
    write_products(
        tmp_path / "in" / "products-2.parquet", [product(50, image=b"x"), product(1), product(51, image=None)]
    )
    write_jsonl(tmp_path / "more.jsonl", [{"query": "mug", "product_id": "p50"}, {"query": "mug", "product_id": "p51"}])
    sources["interactions"] = [sources["interactions"], str(tmp_path / "more.jsonl")]
    summary = run(tmp_path / "DATA", sources)
    assert summary.counts["products"] == 41
    assert summary.duplicates_merged == 1
    assert summary.set_aside == {"products": {"undecodable_image": 1}, "interactions": {"unknown_product": 1}}
    assert summary.share_without_image == pytest.approx(1 / 41)
    assert "undecodable_image" in summary.text()
    report = pq.read_table(tmp_path / "DATA" / "quarantine.parquet").to_pylist()
    assert [(row["table"], Path(row["file"]).name, row["row"], row["key"], row["reason"]) for row in report] == [
        ("products", "products-2.parquet", 1, "p50", "undecodable_image"),
        ("interactions", "more.jsonl", 1, "mug", "unknown_product"),
    ]


@pytest.mark.parametrize("table", ["products", "interactions", "queries", "qrels"])
def test_too_many_bad_rows_leave_a_report_and_nothing_else(tmp_path: Path, sources: dict[str, Any], table: str) -> None:
    bad_row: dict[str, dict[str, Any]] = {
        "products": {"product_id": "x"},
        "interactions": {"query": "x", "product_id": "none"},
        "queries": {"query_id": "x", "query": ""},
        "qrels": {"query_id": "q1", "product_id": "none", "relevance": 1},
    }
    bad = bad_row[table]
    rows = [bad | ({"product_id": f"x{i}", "title": ""} if table == "products" else {"n": i}) for i in range(9)]
    extra = write_jsonl(tmp_path / "bad.jsonl", rows)
    mixed: dict[str, Any] = sources | {table: [sources[table], str(extra)]}
    with pytest.raises(DataError) as caught:
        run(tmp_path / "DATA", mixed)
    message = str(caught.value)
    assert message.startswith(f"{table}: ")
    assert "at most 5.0% may be (9 " in message
    report = tmp_path / "DATA.quarantine.parquet"
    assert str(report) in message
    assert pq.read_table(report).num_rows == 9
    only(tmp_path, "in", "bad.jsonl", report.name)
    assert run(tmp_path / "DATA", mixed, max_bad_share=0.7).set_aside[table].values()
    only(tmp_path, "in", "bad.jsonl", "DATA")


def test_a_catalogue_alone(tmp_path: Path, sources: dict[str, Any]) -> None:
    summary = run(tmp_path / "DATA", {"products": sources["products"]}, pseudo_queries=0)
    data = open_prepared(tmp_path / "DATA")
    assert data.dev is None
    assert data.queries == []
    assert data.query_ids.splits.tolist() == [0]
    assert data.query_keys.shape == (0,)
    assert {len(column) for column in data.pseudo_pairs.values()} == {0}
    assert {len(column) for column in data.interactions.values()} == {0}
    assert summary.share_cold == 1


def test_pictures_alone(tmp_path: Path) -> None:
    path = write_products(tmp_path / "p.parquet", [product(i, title=None, category=None) for i in range(3)])
    summary = run(tmp_path / "DATA", {"products": str(path)})
    assert summary.share_without_title == 1
    assert [len(record["title_ids"]) for record in open_prepared(tmp_path / "DATA").records([0, 1, 2])] == [0, 0, 0]


def test_the_unigram_tokenizer(tmp_path: Path, sources: dict[str, Any]) -> None:
    assert run(tmp_path / "DATA", sources, tokenizer="unigram", vocab_size=100).counts["vocabulary"] <= 100
    assert open_prepared(tmp_path / "DATA").manifest["options"]["tokenizer"] == "unigram"


def test_input_errors_come_before_any_work(tmp_path: Path, sources: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no file matches qrels"):
        run(tmp_path / "DATA", sources | {"qrels": str(tmp_path / "none.csv")})
    with pytest.raises(DataError, match="queries are given without qrels"):
        run(tmp_path / "DATA", {key: sources[key] for key in ("products", "queries")})
    wrong: dict[str, Any] = {
        "max_bad_share=5": {"max_bad_share": 5},
        "pseudo_queries=-1": {"pseudo_queries": -1},
        "storage 'zip' is unknown": {"storage": "zip"},
        "workers=0": {"workers": 0},
        "runner 'spark' is unknown": {"runner": "spark"},
        "workers=1 is for processes": {"runner": "beam"},
        "Beam options '--x' are given without": {"beam_options": "--x"},
        "vocab_size=100 is given with the tokenizer 'some'": {"tokenizer": "some", "vocab_size": 100},
    }
    for message, options in wrong.items():
        with pytest.raises(DataError, match=message):
            run(tmp_path / "DATA", sources, **options)
    only(tmp_path, "in")


def test_an_empty_catalogue(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    pq.write_table(PRODUCT_SCHEMA.empty_table(), path)
    with pytest.raises(DataError, match=r"p\.parquet; the catalogue is empty"):
        run(tmp_path / "DATA", {"products": str(path)})
    only(tmp_path, "p.parquet")


def test_an_earlier_result_is_replaced_but_nothing_foreign(tmp_path: Path, sources: dict[str, Any]) -> None:
    out = tmp_path / "DATA"
    out.mkdir()
    run(out, sources)
    before = files_of(out)
    run(out, {"products": sources["products"]})
    assert open_prepared(out).dev is None
    run(out, sources)
    assert files_of(out) == before

    (out / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"holds notes\.txt, which its manifest\.json does not list"):
        run(out, sources)
    assert files_of(out) == before | {"notes.txt": b"mine"}
    with pytest.raises(DataError, match=r"not empty and has no manifest\.json of kind 'make_jax-data'"):
        run(tmp_path / "in", sources)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="is a file"):
        run(tmp_path / "file", sources)
    only(tmp_path, "DATA", "in", "file")


@pytest.mark.parametrize("step", ["check_products", "add_up", "train_tokenizer", "write_shards", "write_manifest"])
def test_an_interruption_leaves_what_was_there(
    tmp_path: Path, sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "DATA", sources)
    only(tmp_path, "in")


@pytest.mark.slow
def test_a_kill_at_any_moment_leaves_it_absent_or_whole(tmp_path: Path, sources: dict[str, Any]) -> None:
    out = tmp_path / "DATA"
    code = (
        "import sys, transformers; from data_pipelines.prepare import prepare\n"
        "print('ready', flush=True)\n"
        f"while True: prepare(**{sources!r}, out={str(out)!r}, workers=1, progress=False)\n"
    )
    delays = np.random.default_rng().uniform(0, 0.6, 3)
    for delay in delays:
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=REPOSITORY)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        if out.exists():
            assert open_prepared(out).num_products == 40, delays
    run(out, sources)
    only(tmp_path, "DATA", "in")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_full_disk_is_told_in_one_line(
    tmp_path: Path, sources: dict[str, Any], workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", tiny], check=False).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        write_products(tmp_path / "in" / "products-2.parquet", [product(100 + i) for i in range(100)])
        with pytest.raises(DataError) as caught:
            run(tiny / "DATA", sources, workers=workers)
        only(tiny)
    finally:
        subprocess.run(["umount", tiny], check=True)
    message = str(caught.value)
    assert message.startswith(f"{tiny / 'DATA'}: the disk is full; preparing needs about ")
    assert "0.1 MB are free" in message
    assert "\n" not in message
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("write_manifest", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
        ("write_shards", RuntimeError("write() failed: No space left on device; writing x")),
    ],
)
def test_a_disk_that_fills_up_late(
    tmp_path: Path, sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(prepare_module, step, fail)
    with pytest.raises(DataError, match="the disk is full"):
        run(tmp_path / "DATA", sources)
    only(tmp_path, "in")


def test_a_place_that_cannot_be_written(tmp_path: Path, sources: dict[str, Any]) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be written"):
        run(tmp_path / "file" / "DATA", sources)


def test_part_of_a_real_catalogue(fashion_dir: Path, tmp_path: Path) -> None:
    shard = next(pq.ParquetFile(fashion_dir / "products-00000-of-00004.parquet").iter_batches(500))
    with pq.ParquetWriter(tmp_path / "p.parquet", shard.schema) as writer:
        writer.write_batch(shard)
    summary = run(tmp_path / "DATA", {"products": str(tmp_path / "p.parquet")}, vocab_size=1000)
    assert summary.counts["products"] == 500
    assert 500 < summary.counts["vocabulary"] <= 1000
    assert summary.set_aside == {}
    assert 5 < summary.mean_title_tokens < 15
    shutil.rmtree(tmp_path / "DATA")
