"""Work that is shared: the same result whoever does it, errors as if it were done here, and nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogue_files import picture, product, small_catalogue, write_jsonl, write_products
from work_items import die, fail, write_number

from data_pipelines.errors import DataError
from data_pipelines.parallel import Beam, Processes, Runner, choose_runner
from data_pipelines.prepare import prepare
from data_pipelines.summary import PrepareSummary

REPOSITORY = Path(__file__).parents[2]
TWO = Processes(2)


def catalogue_with_repetitions(folder: Path) -> dict[str, Any]:
    """Products in files of every kind; ids repeat, and contradict each other, across files and row groups."""
    sources = small_catalogue(folder)
    rows = [product(i) for i in (3, 1, 60, 61)] + [product(2, title="another title"), product(62, image=b"broken")]
    table = pq.read_table(write_products(folder / "products-2.parquet", rows))
    pq.write_table(table, folder / "products-2.parquet", row_group_size=2)
    images = pa.array([[picture(1), b"broken"], [picture(2), picture(3)], None], pa.list_(pa.binary()))
    several = {"product_id": ["p70", "p71", "p60"], "title": ["red shirt", None, "x"], "image": images}
    pq.write_table(pa.table(several), folder / "products-3.parquet")
    ids = [("p80", "green mug"), ("", "no id"), ("p80", "red mug")]
    write_jsonl(folder / "more.jsonl", [dict(zip(("product_id", "title"), row, strict=True)) for row in ids])
    return sources | {"products": [sources["products"], str(folder / "more.jsonl")]}


def run(out: Path, sources: dict[str, Any], **options: Any) -> PrepareSummary:
    return prepare(**sources, out=out, max_bad_share=0.5, shard_bytes=9_000, progress=False, **options)


def files_of(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return catalogue_with_repetitions(tmp_path_factory.mktemp("parallel") / "in")


@pytest.fixture(scope="module")
def alone(sources: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of it."""
    out = tmp_path_factory.mktemp("alone") / "DATA"
    summary = run(out, sources, workers=1)
    assert summary.counts["products"] == 40 + 2 + 2 + 1
    assert summary.counts["shards"] > 2
    assert summary.duplicates_merged == 2
    assert summary.set_aside == {
        "products": {"duplicate_product_id": 3, "undecodable_image": 1, "missing_id": 1},
        "further images": {"undecodable_image": 1},
    }
    report = pq.read_table(out / "quarantine.parquet").to_pylist()
    assert [(Path(row["file"]).name, row["row"], row["key"]) for row in report] == [
        ("products-2.parquet", 5, "p2"),
        ("products-2.parquet", 6, "p62"),
        ("products-3.parquet", 1, "p70"),
        ("products-3.parquet", 3, "p60"),
        ("more.jsonl", 2, ""),
        ("more.jsonl", 3, "p80"),
    ]
    return files_of(out)


def test_two_processes_give_the_same_bytes(tmp_path: Path, sources: dict[str, Any], alone: dict[str, bytes]) -> None:
    run(tmp_path / "DATA", sources, workers=2)
    assert files_of(tmp_path / "DATA") == alone


def test_beam_gives_the_same_bytes(tmp_path: Path, sources: dict[str, Any], alone: dict[str, bytes]) -> None:
    pytest.importorskip("apache_beam")
    run(tmp_path / "DATA", sources, runner="beam", beam_options="--runner=DirectRunner --direct_num_workers=2")
    assert files_of(tmp_path / "DATA") == alone


def test_parts_do_not_depend_on_how_files_are_split(tmp_path: Path) -> None:
    rows = [product(i) for i in range(130)]
    names = ("products.parquet", "train_queries.parquet", "pseudo_pairs.parquet", "tokenizer/tokenizer.json")
    found = []
    for i, groups in enumerate((130, 7)):
        path = write_products(tmp_path / "p.parquet", rows)
        pq.write_table(pq.read_table(path), path, row_group_size=groups)
        data = files_of(run(tmp_path / f"DATA{i}", {"products": str(path)}, workers=1).out)
        found.append([data[name] for name in names] + [data[name] for name in sorted(data) if "array_record" in name])
    assert found[0] == found[1]


def test_workers_that_check_products_do_without_tensorflow() -> None:
    code = "import sys, data_pipelines.product_parts; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_what_works_alone_may_use_more_threads() -> None:
    assert [Processes(8).threads(items) for items in (0, 1, 3, 8, 100)] == [8, 8, 2, 1, 1]
    assert Beam().threads(1) == 1
    assert Processes(None).fitting(1_000) == Processes(1)
    assert Processes(None).fitting(1 << 40) == Processes(None)
    assert Processes(2).fitting(1_000) == Processes(2)


def test_beam_must_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    with pytest.raises(DataError, match=r"needs Apache Beam .*pip install 'make_jax\[beam\]'"):
        choose_runner("beam", None, "")


def test_every_item_is_done_and_counted(tmp_path: Path) -> None:
    done: list[int] = []
    TWO.run(write_number, [(tmp_path, i) for i in range(7)], tmp_path / "notes", lambda: done.append(1))
    written = [(tmp_path / str(i)).read_text().split() for i in range(7)]
    assert [int(number) for number, _ in written] == list(range(7))
    assert str(os.getpid()) not in {process for _, process in written}
    assert len(done) == 7


@pytest.mark.parametrize("runner", [Processes(1), TWO, Beam()])
def test_the_first_item_that_fails_is_named(tmp_path: Path, runner: Runner) -> None:
    if isinstance(runner, Beam):
        pytest.importorskip("apache_beam")
    with pytest.raises(DataError, match=r"^row 1 is bad; mend it$"):
        runner.run(fail, [0, 1, 2], tmp_path / "notes", lambda: None)
    with pytest.raises((OSError, RuntimeError), match="No space left on device"):
        runner.run(fail, [0, 2], tmp_path / "other notes", lambda: None)


def test_a_worker_that_is_killed_ends_the_work_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a worker process was killed"):
        TWO.run(die, [0, 1], tmp_path, lambda: None)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(tmp_path: Path, sources: dict[str, Any], how: signal.Signals) -> None:
    options = {"workers": 2, "shard_bytes": 2_000, "max_bad_share": 0.5, "progress": False}
    code = (
        # A shell has what it runs in the background ignore Ctrl-C, and that is inherited.
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from data_pipelines.prepare import prepare\n"
        f"while True: prepare(**{sources!r}, out={str(tmp_path / 'DATA')!r}, **{options!r})\n"
    )
    errors = (tmp_path / "errors").open("wb")
    # In a session of its own, as in a terminal: Ctrl-C goes to all of its processes.
    command = [sys.executable, "-c", code]
    process = subprocess.Popen(command, stderr=errors, cwd=REPOSITORY, start_new_session=True)
    parent = psutil.Process(process.pid)
    while len(workers := parent.children()) < 3:  # two workers and the one that tidies up behind multiprocessing
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(np.random.default_rng().uniform(0, 0.3))
    if how == signal.SIGINT:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.kill()
    process.wait()
    _, left = psutil.wait_procs(workers, timeout=60)
    assert left == []
    errors.close()
    if how == signal.SIGINT:
        assert "SpawnProcess" not in (tmp_path / "errors").read_text()  # with which a worker's own words begin
        assert [path.name for path in tmp_path.iterdir()] == ["errors"]
    run(tmp_path / "DATA", sources, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["DATA", "errors"]
