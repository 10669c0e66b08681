"""A small version of the torture: a run killed at random moments ends as the one that was left alone."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import torture

    kills = torture.plan_kills(4, seed=2)
    assert kills == torture.plan_kills(50, seed=2)[:4]
    assert {kill.number for kill in kills} == {signal.SIGKILL, signal.SIGTERM}
    assert {kill.moment for kill in kills} == {"save", "step", "evaluation"}
    rows = list(torture.torture(torture.Setup(tiny_data, tmp_path), kills))
    assert len(rows) == 5
    assert all(row.reached for row in rows), [row.cells() for row in rows]
