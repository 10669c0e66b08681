"""JSON objects are read or refused with a remedy, and a file is there whole or not at all."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from make_jax.errors import UserError
from make_jax.small_files import read_object, write_text, write_whole


@given(st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5), max_size=4))
def test_an_object_comes_back(tmp_path_factory: pytest.TempPathFactory, content: dict[str, int | str]) -> None:
    file = tmp_path_factory.mktemp("record") / "record.json"
    write_text(file, json.dumps(content))
    assert read_object(file, "mend it", list(content)) == content


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, r"cannot be read \(.*No such file"),
        (b"{", r"cannot be read \(Expecting"),
        (b'{"a": "\xff"}', r"cannot be read \('utf-8'"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"b": 1}', "a, c missing"),
    ],
)
def test_what_is_no_such_object_is_told_with_a_remedy(tmp_path: Path, content: bytes | None, told: str) -> None:
    file = tmp_path / "record.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"record\.json: .*{told}.*; mend it$") as error:
        read_object(file, "mend it", ["a", "b", "c"])
    assert "\n" not in str(error.value)


def test_a_file_that_cannot_take_its_place_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_text(tmp_path / "taken", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path: Path) -> None:
    file, contents = tmp_path / "file", [bytes([number]) * 100_000 for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda content: write_whole(file, content), contents))
    assert file.read_bytes() in contents
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
