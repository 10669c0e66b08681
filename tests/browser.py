"""Pages in headless Chromium; see the fixture `browser`."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

# A frame, as headless Chromium makes no window narrower than 500 pixels; the page in it keeps its policy.
_PROBE = """<!doctype html><meta name="color-scheme" content="light dark"><pre id="probe"></pre>
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


class Seen(NamedTuple):
    """What a browser makes of a page.

    inner, the width of its frame, and scroll, that of what is in it, in pixels; drawn, how many pictures could be
    shown; figures, the height of each; ink, the colour of the text; log, what Chromium printed.
    """

    inner: int
    scroll: int
    drawn: int
    figures: list[float]
    ink: str
    log: str


class Browser:
    """Chromium with a fresh profile, told to leave the network alone."""

    def __init__(self, chromium: str, folder: Path) -> None:
        self._chromium, self._folder = chromium, folder

    def open(self, page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        """Open a page; fails if Chromium does."""
        quiet = ["quic", "background-networking", "component-update", "sync", "gpu", "extensions"]
        return subprocess.run(
            [
                self._chromium,
                "--headless",
                "--no-sandbox",
                "--no-first-run",
                *(f"--disable-{thing}" for thing in quiet),
                f"--user-data-dir={self._folder / 'profile'}",
                "--enable-logging=stderr",
                *flags,
                page.as_uri(),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )

    def look(self, page: str, width: int, *flags: str) -> Seen:
        """Open a page's content in a frame of so many pixels, with everything unfolded."""
        file = self._folder / "probe.html"
        file.write_text(_PROBE.format(page=html.escape(page), width=width), "utf-8")
        done = self.open(file, "--dump-dom", "--virtual-time-budget=5000", *flags)
        found = re.search(r'<pre id="probe">(.+?)</pre>', done.stdout)
        assert found is not None, done.stderr
        return Seen(**json.loads(found[1]), log=done.stderr)
