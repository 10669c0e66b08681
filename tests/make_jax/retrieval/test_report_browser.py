"""The evaluation report in a real browser: it fits the screen, shows its pictures and asks for nothing."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_sample import sample

from make_jax.retrieval.report import render, write_report


@pytest.fixture(scope="module")
def chromium() -> str:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not on PATH; install it (Debian: apt-get install chromium)")
    return path


def browse(chromium: str, profile: Path, page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Open a page in headless Chromium that is told to leave the network alone; fails if Chromium does."""
    quiet = ["quic", "background-networking", "component-update", "sync", "gpu", "extensions"]
    return subprocess.run(
        [
            chromium,
            "--headless",
            "--no-sandbox",
            "--no-first-run",
            *(f"--disable-{thing}" for thing in quiet),
            f"--user-data-dir={profile}",
            "--enable-logging=stderr",
            *flags,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


# A frame, as headless Chromium makes no window narrower than 500 pixels; the page in it keeps its policy.
PROBE = """<!doctype html><meta name="color-scheme" content="light dark"><pre id="probe"></pre>
<iframe srcdoc="{page}" style="width:{width}px; height:900px; border:0"></iframe>
<script>
const frame = document.querySelector("iframe");
frame.addEventListener("load", async () => {{
  const page = frame.contentDocument;
  for (const details of page.querySelectorAll("details")) details.open = true;
  for (const image of page.images) image.loading = "eager";
  await Promise.allSettled([...page.images].map(image => image.decode()));
  probe.textContent = JSON.stringify({{
    inner: frame.contentWindow.innerWidth,
    scroll: page.documentElement.scrollWidth,
    drawn: [...page.images].filter(image => image.naturalWidth > 0).length,
    figures: [...page.querySelectorAll("svg")].map(figure => figure.getBoundingClientRect().height),
    ink: frame.contentWindow.getComputedStyle(page.body).color,
  }});
}});
</script>"""


@pytest.mark.parametrize(
    ("width", "scheme", "ink"), [(390, "light", "rgb(26, 29, 33)"), (1280, "dark", "rgb(233, 236, 239)")]
)
def test_a_browser_shows_it_without_sideways_scrolling(
    chromium: str, tmp_path: Path, width: int, scheme: str, ink: str
) -> None:
    path = tmp_path / "probe.html"
    path.write_text(PROBE.format(page=html.escape(render(sample())), width=width), "utf-8")
    flag = f"--blink-settings=preferredColorScheme={['dark', 'light'].index(scheme)}"
    done = browse(chromium, tmp_path / "profile", path, "--dump-dom", "--virtual-time-budget=5000", flag)
    found = re.search(r'<pre id="probe">(.+?)</pre>', done.stdout)
    assert found is not None
    probe = json.loads(found[1])
    assert probe["inner"] == width
    assert probe["scroll"] <= width
    assert probe["drawn"] == 4
    assert len(probe["figures"]) == 5
    assert min(probe["figures"]) > 100
    assert probe["ink"] == ink
    assert "CONSOLE" not in done.stderr


def test_a_browser_paints_it_and_has_nothing_to_complain_of(chromium: str, tmp_path: Path) -> None:
    path = write_report(sample(), tmp_path)
    shot = tmp_path / "page.png"
    done = browse(chromium, tmp_path / "profile", path, f"--screenshot={shot}", "--window-size=1280,2400")
    assert "CONSOLE" not in done.stderr
    with Image.open(shot) as opened:
        pixels = np.asarray(opened.convert("RGB"))
    assert pixels.shape == (2400, 1280, 3)
    navy, accent = (np.abs(pixels.astype(int) - colour).sum(-1) < 24 for colour in ((0, 0, 128), (52, 81, 178)))
    assert navy.sum() > 5000  # the picture of the navy shirt, from its data URI
    assert accent.sum() > 1000  # bars and figures in the page's own colour
