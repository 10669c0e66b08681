"""Pages: each is one HTML file that holds all it shows (styles, figures, pictures).

Its content security policy forbids the browser to fetch anything, so it can be mailed, archived and opened years later.
All share `templates/page.html.j2`, which their own templates extend, its style and `parts.html.j2`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2

from make_jax.pages.pictures import lossless, thumbnail
from make_jax.small_files import write_whole

Filters = Mapping[str, Callable[..., Any]]

_SHARED = Path(__file__).with_name("templates")


def render_page(template: Path, filters: Filters, **values: Any) -> str:
    """Fill in a page; the same values give the same string. Text is escaped, and an unknown name is an error.

    Args:
      template: extends `page.html.j2`; may include what lies beside it and what pages share.
      filters: further ones, beside `thumbnail` and `lossless`.
      values: what the template shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, _SHARED]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(thumbnail=thumbnail, lossless=lossless, **filters)
    return environment.get_template(template.name).render(values)


def write_page(file: Path, page: str) -> None:
    """Write a page whole or not at all; a lone surrogate, as somebody's JSON may carry, becomes "?"."""
    write_whole(file, page.encode("utf-8", "replace"))
