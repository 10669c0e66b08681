"""The inspection page: what is on it, that it needs nothing else, and the command that writes it."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.dataset import open_prepared
from data_pipelines.inspection import Inspection, inspect
from data_pipelines.inspection.contents import SetAside, ShardFile
from data_pipelines.inspection.examples import Token, Word
from data_pipelines.inspection.scan import Repeated
from data_pipelines.inspection.speed import InputSpeed
from data_pipelines.prepare import prepare
from data_pipelines.schema import BadRow
from make_jax.cli import main
from make_jax.commands.feeding import augmentation, batch_shape, feed_options, sampling
from make_jax.commands.inspect_data import inspect_data
from make_jax.config import DataConfig, Experiment, ImageConfig, ModelConfig, TrainingConfig
from make_jax.drawing import Drawing
from make_jax.errors import UserError
from make_jax.inspection import figures
from make_jax.inspection.page import render

HOSTILE = '<script>alert("1")</script><img src=x onerror=alert(2)>\'"& 红色连衣裙 $x^{2'
TINY = Path(__file__).parents[3] / "experiments" / "tiny.py"
SECTIONS = {"examples", "lengths", "shards", "set-aside", "repeated", "speed", "data"}


class Page(HTMLParser):
    """The page as a list of (tag, attributes) and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def found(tiny_data: Path) -> Inspection:
    """Six varied examples, some of products that nobody clicked, and every kind of trouble."""
    experiment = Experiment(
        "test",
        model=ModelConfig(image=ImageConfig(height=32, width=16)),
        data=DataConfig(crop=0.5, cold_share=0.5),
        training=TrainingConfig(batch_size=6),
    )
    made = inspect(
        open_prepared(tiny_data),
        sampling(experiment),
        batch_shape(experiment),
        augmentation(experiment),
        feed_options(experiment),
        progress=False,
    )
    bad = SetAside("products", "no_image", 17, [BadRow("products", "p.csv", 1234, "p77", "no_image", "it is cut")])
    return dataclasses.replace(
        made,
        contents=dataclasses.replace(made.contents, set_aside=[bad]),
        scan=dataclasses.replace(made.scan, repeated=1, groups=[Repeated(9, ["a", "b"], "twice", b"not a picture")]),
    )


@pytest.fixture(scope="module")
def page(found: Inspection) -> Page:
    return Page(render(found, "test"))


def test_every_part_is_on_the_page_and_linked(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert set(ids) >= SECTIONS
    assert len(ids) == len(set(ids))
    assert {link["href"] for link in page.all("a")} == {f"#{section}" for section in SECTIONS | {"main"}}
    for text in ("17", "p77", "it is cut", "p.csv, row 1,234", "9 products: a, b, …", "min_scale=0.5", "input alone"):
        assert text in page.text


def test_the_page_is_accessible(page: Page) -> None:
    assert len(page.all("h1")) == len(page.all("main")) == 1
    assert all(image["alt"] for image in page.all("img"))
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    drawn = page.all("svg")
    assert len(drawn) == 7
    assert all(figure["role"] == "img" and figure["aria-label"] for figure in drawn)


def test_the_examples_are_shown_to_the_bit(found: Inspection, page: Page) -> None:
    expected = [pixels for e in found.examples for picture in e.pictures for pixels in picture if pixels is not None]
    sources = [image["src"] or "" for image in page.all("img")]
    assert len(sources) == len(expected) > 6
    for source, pixels in zip(sources, expected, strict=True):
        kind, _, content = source.partition(",")
        assert kind == "data:image/png;base64"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))), pixels)
    assert {e.is_made_up for e in found.examples} == {True, False}
    assert page.text.count("query made from the title") == sum(e.is_made_up for e in found.examples)
    for example in found.examples:
        assert example.query in page.text
        assert example.title in page.text


def test_nothing_that_a_seller_writes_becomes_markup(found: Inspection) -> None:
    text = dataclasses.replace(
        found.examples[0].title_text, words=[Word([Token(HOSTILE, "text")], True)], num_cut=3, cut=HOSTILE
    )
    example = dataclasses.replace(
        found.examples[0], product_id=HOSTILE, category=HOSTILE, title=HOSTILE, query=HOSTILE, title_text=text
    )
    contents = dataclasses.replace(
        found.contents,
        path=HOSTILE,
        options={HOSTILE: HOSTILE},
        set_aside=[SetAside(HOSTILE, HOSTILE, 1, [BadRow(*[HOSTILE] * 2, 1, *[HOSTILE] * 3)])],
        shards=[ShardFile(HOSTILE, 1, 1)],
    )
    groups = [Repeated(2, [HOSTILE], HOSTILE, found_picture())]
    scan = dataclasses.replace(found.scan, num_unreadable=1, unreadable=[HOSTILE], groups=groups)
    hostile = Page(render(dataclasses.replace(found, examples=[example], contents=contents, scan=scan), HOSTILE))
    assert {tag for tag, _ in hostile.tags}.isdisjoint({"script"})
    assert all("onerror" not in attributes for _, attributes in hostile.tags)
    assert hostile.text.count(HOSTILE) > 12


def found_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "navy").save(buffer, "PNG")
    return buffer.getvalue()


def test_the_page_fetches_nothing(found: Inspection) -> None:
    text = render(found, "test")
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    assert "default-src 'none'" in text


def test_without_pairs_the_parts_about_training_are_left_out(found: Inspection) -> None:
    page = Page(render(dataclasses.replace(found, examples=[], speed=None), "test"))
    links = {link["href"] for link in page.all("a")}
    assert links == {f"#{section}" for section in (SECTIONS | {"main"}) - {"examples", "speed"}}
    assert "nothing to train on" in page.text


def test_regions_stand_in_place_of_pictures(found: Inspection) -> None:
    shape = dataclasses.replace(found.shape, num_images=0, num_regions=5)
    contents = dataclasses.replace(found.contents, has_regions=True)
    regions = np.arange(found.scan.scanned, dtype=np.int32) % 9
    examples = [dataclasses.replace(e, pictures=[], num_regions=4) for e in found.examples]
    scan = dataclasses.replace(found.scan, num_regions=regions, groups=[])
    page = Page(render(dataclasses.replace(found, shape=shape, contents=contents, scan=scan, examples=examples), "t"))
    assert not page.all("img")
    assert page.text.count("4 regions") == len(examples)
    assert "up to 5 regions" in page.text
    assert "without picture" not in page.text


counts = st.lists(st.integers(0, 10**6), max_size=30).map(lambda values: np.array(values, np.int64))


@settings(max_examples=5, deadline=None)
@given(values=counts, limit=st.integers(1, 600))
def test_any_numbers_can_be_drawn(values: np.ndarray, limit: int) -> None:
    shards = [ShardFile(f"s{i}", int(value), int(value)) for i, value in enumerate(values)]
    drawn: list[Drawing | None] = [
        figures.token_lengths(values % 513, "titles", limit),
        figures.pictures_per_product(values % 17, "pictures", limit),
        figures.click_counts(values, "pair"),
        figures.shard_sizes(shards),
        figures.shard_records(shards * 3),
    ]
    assert [figure is None for figure in drawn] == [
        len(values) == 0, len(values) == 0, values.max(initial=0) == 0, len(values) == 0, len(values) == 0
    ]  # fmt: skip
    for figure in drawn:
        assert figure is None or not re.search(r"\b(nan|inf)\b", figure.svg + figure.description)


def test_the_time_of_an_epoch_is_said_plainly(found: Inspection) -> None:
    for speed, said in ((InputSpeed(100, 2.0, 1000), "20 s"), (InputSpeed(100, 2.0, 200_000), "1:06:40")):
        text = Page(render(dataclasses.replace(found, speed=speed), "test")).text
        assert f"an epoch in about {said}" in text
        assert "50 pairs/s" in text
        assert "An estimate of the input alone" in text


def test_figures_say_what_is_cut() -> None:
    drawing = figures.token_lengths(np.array([3, 5, 8, 9]), "titles", 8)
    assert drawing is not None
    assert drawing.description.startswith("4 titles: median 6.5 tokens, longest 9. The model takes 8 (dashed); 25.0% ")


def test_the_command_writes_a_page_beside_the_data(tiny_data: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tiny_data, data)
    inspected = inspect_data(str(data), TINY, examples=3, step=7, overrides=["model.title.max_tokens=12"])
    assert inspected.page == tmp_path / "data-inspect.html"
    text = inspected.page.read_text("utf-8")
    assert "as tiny sees it: titles of 12 tokens" in text
    assert "The first 3 pairs of training step 7 with seed 0" in text
    assert str(data) in inspected.text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", "data-inspect.html"]


def test_the_command_takes_another_seed_and_place(tiny_data: Path, tmp_path: Path) -> None:
    # Whatever else of the queries the experiment's objectives want to know.
    words = ["objectives.keyword_mask=words", "data.further_queries=2", "objectives.mlm=0.5"]
    inspected = inspect_data(str(tiny_data), TINY, tmp_path / "new" / "page.html", 2, seed=9, overrides=words)
    assert inspected.page == tmp_path / "new" / "page.html"
    assert "with seed 9" in inspected.page.read_text("utf-8")


def test_default_settings_fit_the_kind_of_data(tmp_path: Path) -> None:
    products = [{"product_id": f"p{n}", "title": f"red shirt {n}", "regions": [[0.5, n]] * 3} for n in range(20)]
    tables = tmp_path / "products.jsonl", tmp_path / "clicks.jsonl"
    tables[0].write_text("\n".join(map(json.dumps, products)))
    tables[1].write_text("\n".join(json.dumps({"query": "shirt", "product_id": f"p{n}"}) for n in range(20)))
    data = tmp_path / "data"
    prepare(str(tables[0]), data, str(tables[1]), workers=1, progress=False)
    text = inspect_data(str(data), examples=3).page.read_text("utf-8")
    assert "as an experiment with default settings sees it" in text
    assert "up to 36 regions" in text
    assert text.count("3 regions</span>") == 3
    with pytest.raises(UserError, match="region features of width 2, but"):
        inspect_data(str(data), TINY)


@pytest.mark.parametrize(("out", "written"), [("page", "page.html"), ("page.htm", "page.htm"), (".page", ".page.html")])
def test_a_page_without_an_ending_gets_one(tiny_data: Path, tmp_path: Path, out: str, written: str) -> None:
    called = CliRunner().invoke(
        main, ["data", "inspect", str(tiny_data), "--experiment", str(TINY), "--examples", "1", "--out", tmp_path / out]
    )
    assert called.exit_code == 0, called.output
    assert called.output.rstrip().endswith(f"Look at {tmp_path / written}")
    assert [path.name for path in tmp_path.iterdir()] == [written]


@pytest.mark.parametrize("out", ["", "missing/..", "page"])
def test_a_folder_in_the_way_is_a_users_error(tiny_data: Path, tmp_path: Path, out: str) -> None:
    (tmp_path / "missing").mkdir()
    (tmp_path / "page.html").mkdir()
    with pytest.raises(UserError, match="is a folder; name the file to write with --out"):
        inspect_data(str(tiny_data), TINY, tmp_path / out)


def test_a_phone_shows_it_without_sideways_scrolling(found: Inspection, browser: Browser) -> None:
    seen = browser.look(render(found, "test"), 390)
    assert seen.scroll <= seen.inner == 390
    assert seen.drawn == sum(len(e.pictures) * 2 for e in found.examples)
    assert len(seen.figures) == 7
    assert min(seen.figures) > 100
    assert "CONSOLE" not in seen.log
