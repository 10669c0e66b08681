"""The evaluation report: what is on the page, and that the page needs nothing else."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_sample import HOSTILE, picture, sample

from make_jax.errors import UserError
from make_jax.retrieval.report import render, write_report
from make_jax.retrieval.report_data import (
    CategoryWeights,
    Group,
    KindWeights,
    QueryResults,
    ReportData,
    Result,
    RunFacts,
    Segment,
    TuningPoint,
)

VOID = {"meta", "img", "br", "link", "input", "hr"}
SECTIONS = {"metrics", "finds", "fails", "segments", "groups", "weights", "index", "training", "run"}


class Page(HTMLParser):
    """The page as a list of (tag, attributes), its text, and a check that tags close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def ids(self) -> list[str | None]:
        return [attributes["id"] for _, attributes in self.tags if "id" in attributes]


@pytest.fixture(scope="module")
def html() -> str:
    return render(sample())


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_numbers_are_on_the_page(page: Page) -> None:
    for text in ("0.612", "0.608", "−0.004 against exact", "0.741", "14,812,673", "1 h 2 min", "a1b2c3d"):
        assert text in page.text
    for text in ("1,234 to find", "44,335 products", "37 rows were set aside", "0.957 recall", "12,345"):
        assert text in page.text


def test_findings_name_the_weak_part_and_compare_weights(page: Page) -> None:
    assert "Weakest: pattern+type" in page.text  # three queries of "brand" are too few to be called weak
    assert "0.85 vs 0.15" in page.text


def test_weights_by_category_are_the_finding_where_nothing_is_known_of_kinds() -> None:
    text = Page(render(dataclasses.replace(sample(), kind_weights=[]))).text
    assert "Kind 29 leans most on titles, Kind 0 most on pictures." in text
    assert "6 smaller categories" in text


def test_groups_are_side_by_side_with_their_ratio(page: Page) -> None:
    assert "0.80" in page.text
    assert "never clicked: 4,321 relevant pairs in 120 queries" in page.text
    assert "matched in 100 queries" in page.text


def test_structure_is_accessible(page: Page) -> None:
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert set(page.ids()) >= SECTIONS
    assert len(page.ids()) == len(set(page.ids()))
    links = {link["href"] for link in page.all("a")}
    assert links == {f"#{section}" for section in SECTIONS | {"main"}}
    assert all(image["alt"] for image in page.all("img"))
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    figures = page.all("svg")
    assert len(figures) == 5
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in figures)


def test_relevance_is_said_in_words_and_weights_have_labels(page: Page) -> None:
    for label in ("✓ all asked for", "◐ right kind", "✕ not relevant", "? not judged"):
        assert label in page.text
    assert {"text weight 0.25, picture weight 0.75"} <= {tag.get("aria-label") for tag in page.all("div")}


def test_grades_and_labels_of_the_users_own() -> None:
    result = Result("p", "t", 0.5, relevance=1)
    data = ReportData("t", samples=[QueryResults("q", {}, [result])], relevance_labels={1: "bought", 0: "no"})
    text = Page(render(data)).text
    assert "✓ bought" in text
    assert "right kind" not in text


def test_nothing_is_fetched_and_nothing_runs(html: str, page: Page) -> None:
    for tag, attributes in page.tags:
        for key in ("src", "href", "data", "action", "poster", "srcset"):
            value = attributes.get(key) or "#"
            assert value.startswith(("#", "data:image/jpeg;base64,")), (tag, key, value)
    names = {tag for tag, _ in page.tags}
    assert names.isdisjoint({"script", "link", "iframe", "object", "embed", "form"})
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    assert "@import" not in html
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_hostile_text_stays_text(page: Page) -> None:
    titles = [attributes.get("title") for attributes in page.all("p")]
    assert HOSTILE in titles
    assert HOSTILE in page.text
    everywhere = ReportData(
        title=HOSTILE,
        run=RunFacts(HOSTILE, HOSTILE, HOSTILE, HOSTILE, 1, HOSTILE, {HOSTILE: HOSTILE}, more={HOSTILE: HOSTILE}),
        metrics={HOSTILE: {HOSTILE: 0.5}},
        definitions={HOSTILE: HOSTILE},
        headline_per_query=[0.5],
        segments=[Segment(HOSTILE, HOSTILE, 20, {HOSTILE: 0.5}), Segment(HOSTILE, "b", 20, {HOSTILE: 0.6})],
        groups=[Group(HOSTILE, HOSTILE, HOSTILE, 1, 1, {HOSTILE: 0.5}, 0.0, 0) for _ in range(2)],
        samples=[QueryResults(HOSTILE, {HOSTILE: 1.0}, [Result(HOSTILE, HOSTILE, 1.0, 2, picture("red"))])],
        category_weights=[CategoryWeights(HOSTILE, 20, 0.5, 0.1)],
        kind_weights=[KindWeights(HOSTILE, "both", [0.5])],
        training=[{"step": step, "dev/" + HOSTILE: 0.5} for step in (1, 2)],
        tuning=[TuningPoint(0.9, 10.0, {HOSTILE: HOSTILE}, chosen=True)],
        notes=[HOSTILE],
        relevance_labels={2: HOSTILE},
    )
    assert {tag for tag, _ in Page(render(everywhere)).tags}.isdisjoint({"script"})
    assert all("onerror" not in attributes for _, attributes in Page(render(everywhere)).tags)


def test_the_same_data_gives_the_same_bytes(html: str) -> None:
    assert render(sample()) == html


@pytest.mark.parametrize(
    ("field", "section"),
    [
        ({"metrics": {}}, "metrics"),
        ({"samples": []}, "finds"),
        ({"worst": [], "best": []}, "fails"),
        ({"segments": []}, "segments"),
        ({"groups": []}, "groups"),
        ({"category_weights": [], "kind_weights": []}, "weights"),
        ({"tuning": []}, "index"),
        ({"training": []}, "training"),
    ],
)
def test_a_missing_part_leaves_its_section_and_link_out(field: dict[str, Any], section: str) -> None:
    page = Page(render(dataclasses.replace(sample(), **field)))
    assert SECTIONS - set(page.ids()) == {section}
    assert {link["href"] for link in page.all("a")} == {f"#{s}" for s in (SECTIONS | {"main"}) - {section}}


def test_a_title_is_enough() -> None:
    page = Page(render(ReportData("Bare")))
    assert "Bare" in page.text
    assert page.all("svg") == page.all("img") == page.all("table") == []


def test_writing_replaces_the_old_page_and_leaves_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "report"
    assert write_report(ReportData("First"), folder) == folder / "report.html"
    path = write_report(ReportData("Second \ud800"), folder)  # half a surrogate pair, as JSON may carry
    assert "Second ?" in path.read_text("utf-8")
    assert [entry.name for entry in folder.iterdir()] == ["report.html"]


def test_a_file_in_the_way_is_a_users_error(tmp_path: Path) -> None:
    (tmp_path / "report").write_text("")
    with pytest.raises(UserError, match="it is a file"):
        write_report(ReportData("t"), tmp_path / "report")


PLACES: tuple[Literal["title", "picture", "both"], ...] = ("title", "picture", "both")
floats = st.floats(allow_nan=True, allow_infinity=True, width=32)
words = st.one_of(st.text(max_size=40), st.just("x" * 3000), st.just("$\\frac{\x00\ud800"))
weights = st.one_of(st.none(), floats)


@settings(max_examples=12, deadline=None)
@given(data=st.data(), name=words, value=floats, grade=st.one_of(st.none(), st.integers(-3, 9)))
def test_odd_values_still_give_a_page(data: st.DataObject, name: str, value: float, grade: int | None) -> None:
    values = data.draw(st.lists(floats, max_size=4))
    result = Result(name, name, value, grade, None, data.draw(weights), data.draw(weights))
    report = ReportData(
        name,
        run=RunFacts(training_seconds=value),
        metrics={name: {name: value}, "index": {name: 0.5}},
        headline_per_query=values,
        segments=[Segment(name, name, 20, {name: v}) for v in values],
        groups=[Group(name, name, "exact", 1, 1, {name: value}, value, 0) for _ in range(2)],
        samples=[QueryResults(name, {name: value}, [result])],
        category_weights=[CategoryWeights(name, 20, v, value) for v in values],
        kind_weights=[KindWeights(name, data.draw(st.sampled_from(PLACES)), values)],
        training=[{"step": step, "loss": v, "dev_" + name: v} for step, v in enumerate(values)],
        tuning=[TuningPoint(v, value, {name: 1}, chosen=True) for v in values],
        target_recall=value,
    )
    page = Page(render(report).encode("utf-8", "replace").decode("utf-8"))
    assert not re.search(r"\b(nan|inf)\b", page.text.replace(name, "").lower())
