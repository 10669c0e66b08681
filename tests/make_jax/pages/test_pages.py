"""What all pages share: their head, escaping, and that nothing of a page is missing without an error."""

from __future__ import annotations

from pathlib import Path

import jinja2
import pytest

from make_jax.drawing import Drawing
from make_jax.pages import render_page, write_page

TEMPLATE = """{% extends "page.html.j2" %}
{% from "parts.html.j2" import figure %}
{% block title %}{{ title }}{% endblock %}
{% block style %}{% include "own.css" %}{% endblock %}
{% block body %}<p>{{ title|loud }}</p>{{ figure(drawing, title) }}{% endblock %}
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    (tmp_path / "own.css").write_text(".own { color: red; }")
    (tmp_path / "page.j2").write_text(TEMPLATE)
    return tmp_path / "page.j2"


def test_a_page_has_its_own_parts_and_the_shared_ones(template: Path) -> None:
    drawing = Drawing("<svg><path/></svg>", "a < b")
    page = render_page(template, {"loud": str.upper}, title="<shop>", drawing=drawing)
    assert page.startswith("<!doctype html>")
    for part in (
        "default-src 'none'",
        "<title>&lt;shop&gt;</title>",
        "prefers-color-scheme: dark",
        ".own { color: red; }",
        "<p>&lt;SHOP&gt;</p>",
        "<figure><h3>&lt;shop&gt;</h3><svg><path/></svg><figcaption>a &lt; b</figcaption></figure>",
    ):
        assert part in page
    assert "<figure>" not in render_page(template, {"loud": str.upper}, title="shop", drawing=None)


def test_an_unknown_name_is_an_error(template: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="drawing"):
        render_page(template, {"loud": str.upper}, title="shop")


def test_half_a_surrogate_pair_is_no_reason_to_fail(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "shirt \ud800 红")
    assert (tmp_path / "page.html").read_text("utf-8") == "shirt ? 红"
