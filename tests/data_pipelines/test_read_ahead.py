"""Reading ahead: the end and errors come once and are final."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from data_pipelines.read_ahead import ReadAhead


def test_the_end_stays_the_end() -> None:
    ahead = ReadAhead(range(3), depth=2)
    assert [ahead.take(10) for _ in range(3)] == [0, 1, 2]
    for _ in range(2):
        with pytest.raises(StopIteration):
            ahead.take(10)


def test_an_error_comes_after_what_was_read_and_is_the_end() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    ahead = ReadAhead(items(), depth=5)
    assert ahead.take(10) == 1
    with pytest.raises(OSError, match="gone"):
        ahead.take(10)
    with pytest.raises(StopIteration):
        ahead.take(10)


def test_nothing_is_read_before_it_is_asked_for_nor_after_stopping() -> None:
    read: list[int] = []
    ahead = ReadAhead((read.append(i) for i in range(100)), depth=2)
    assert read == []
    ahead.take(10)
    ahead.stop()
    ahead.join(10)
    assert not ahead.is_alive()
    assert len(read) <= 4
    with pytest.raises(StopIteration):
        ahead.take(10)
