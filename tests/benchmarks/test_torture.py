"""A small version of the torture: a run killed at random moments ends as the one that was left alone."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(FOLDER)
    import torture

    monkeypatch.setattr(torture, "STEPS_A_KILL", 20)

    planned = torture.plan_kills(50, seed=2)
    assert planned[:4] == torture.plan_kills(4, seed=2)
    assert {kill.moment for kill in planned} == {"save", "step", "evaluation", "start"}
    kills = [next(kill for kill in planned if kill.number == number) for number in (signal.SIGTERM, signal.SIGKILL)]
    assert "save" in {kill.moment for kill in kills}
    rows = list(torture.torture(torture.Setup(tiny_data, tmp_path), kills))
    assert len(rows) == 5
    assert all(row.reached for row in rows), [row.cells() for row in rows]
