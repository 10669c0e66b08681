"""The evaluation report in a real browser: it fits the screen, shows its pictures and asks for nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from PIL import Image
from report_sample import sample

from make_jax.retrieval.report import render, write_report


@pytest.mark.parametrize(
    ("width", "scheme", "ink"), [(390, "light", "rgb(26, 29, 33)"), (1280, "dark", "rgb(233, 236, 239)")]
)
def test_a_browser_shows_it_without_sideways_scrolling(browser: Browser, width: int, scheme: str, ink: str) -> None:
    flag = f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"
    seen = browser.look(render(sample()), width, flag)
    assert seen.scroll <= seen.inner == width
    assert seen.drawn == 4
    assert len(seen.figures) == 5
    assert min(seen.figures) > 100
    assert seen.ink == ink
    assert "CONSOLE" not in seen.log


def test_a_browser_paints_it_and_has_nothing_to_complain_of(browser: Browser, tmp_path: Path) -> None:
    path = write_report(sample(), tmp_path)
    shot = tmp_path / "page.png"
    done = browser.open(path, f"--screenshot={shot}", "--window-size=1280,2400")
    assert "CONSOLE" not in done.stderr
    with Image.open(shot) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    assert pixels.shape == (2400, 1280, 3)
    navy, accent = (np.abs(pixels.astype(int) - colour).sum(-1) < 24 for colour in ((0, 0, 128), (52, 81, 178)))
    assert navy.sum() > 5000  # the picture of the navy shirt, from its data URI
    assert accent.sum() > 1000  # bars and figures in the page's own colour
