"""Products of the synthetic catalogue: pure functions of their number, told apart by title or by picture."""

from __future__ import annotations

import io
import re
import tracemalloc
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_pipelines.errors import DataError
from data_pipelines.synthetic import Product, SyntheticSpec, products
from data_pipelines.synthetic.drawing import PALETTE
from data_pipelines.synthetic.kinds import KINDS, MAX_ASKED, MAX_TRAITS
from data_pipelines.synthetic.shapes import SHAPES
from data_pipelines.synthetic.vocabulary import ATTRIBUTES

TINY = (16, 20)


@pytest.fixture(scope="module")
def catalogue() -> list[Product]:
    return list(products(SyntheticSpec(products=3000, chinese_share=0.3, seed=5)))


def pixels(product: Product) -> np.ndarray:
    assert product.image is not None
    return np.asarray(Image.open(io.BytesIO(product.image)), np.float64)


def states(title: str, word: str) -> bool:
    """Whether a title has this word, not merely as part of a longer one (2m in 12m, red in hundred)."""
    before = "(?<![0-9a-z])" if word[0].isascii() else ""
    after = "(?![0-9a-z])" if word[-1].isascii() else ""
    return re.search(before + re.escape(word.lower()) + after, title.lower()) is not None


def test_the_table_of_kinds_holds_together():
    assert {kind.key for kind in KINDS} == set(SHAPES)
    assert set(PALETTE) == {value.key for value in ATTRIBUTES["colour"]}
    families = Counter(kind.asked_in for kind in KINDS)
    assert min(families["title"], families["picture"]) >= 5
    assert families["both"] >= 3
    for kind in KINDS:
        asked = [trait.asked for trait in kind.traits]
        assert asked == sorted(asked, reverse=True), f"{kind.key}: asked traits come first"
        assert len(kind.traits) <= MAX_TRAITS
        assert sum(asked) <= MAX_ASKED


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**63), start=st.integers(0, 1200), length=st.integers(0, 6))
def test_a_part_equals_the_same_part_of_the_whole(seed: int, start: int, length: int):
    spec = SyntheticSpec(products=1206, seed=seed, image_size=TINY, chinese_share=0.5)
    part = list(products(spec, start, start + length))
    larger = SyntheticSpec(products=5000, seed=seed, image_size=TINY, chinese_share=0.5)
    around = list(products(larger, max(start - 1, 0), start + length))
    assert part == around[min(start, 1) :]


def test_slices_across_chunks_equal_the_full_stream():
    spec = SyntheticSpec(products=600, image_size=TINY)
    full = list(products(spec))
    assert list(products(spec, 500, 515)) == full[500:515]
    assert list(products(spec)) == full
    assert list(products(SyntheticSpec(products=600, image_size=TINY, seed=1))) != full
    assert [product.product_id for product in full[:2]] == ["p0000000", "p0000001"]


def test_no_two_pictures_are_the_same(catalogue: list[Product]):
    images = [product.image for product in catalogue if product.image]
    assert len(set(images)) == len(images)


@pytest.mark.parametrize("size", [(64, 80), (90, 48)])
def test_pictures_are_jpegs_of_the_asked_size(size: tuple[int, int]):
    for product in products(SyntheticSpec(products=60, image_size=size, missing_image_share=0.0)):
        assert product.image is not None
        picture = Image.open(io.BytesIO(product.image))
        assert (picture.format, picture.size, picture.mode) == ("JPEG", size, "RGB")


def test_shares_are_those_of_the_spec():
    spec = SyntheticSpec(
        products=4000,
        chinese_share=0.4,
        cold_share=0.2,
        missing_image_share=0.1,
        missing_title_share=0.15,
        wrong_title_share=0.25,
        image_size=TINY,
    )
    made = list(products(spec))

    def near(share: float, flags: list[bool]) -> bool:
        return abs(np.mean(flags) - share) < 4 * np.sqrt(share * (1 - share) / len(flags))

    assert near(0.4, [product.language == "zh" for product in made])
    assert near(0.2, [product.cold for product in made])
    assert near(0.1, [product.image is None for product in made])
    assert near(0.15, [product.title is None for product in made])
    assert near(0.25, [product.wrong_title for product in made if product.title])
    assert not any(product.image is None and product.title is None for product in made)
    kinds = Counter(product.kind.key for product in made)
    assert all(near(1 / len(KINDS), [product.kind is kind for product in made]) for kind in KINDS), kinds


def test_every_product_lacks_one_side_when_all_are_to():
    spec = SyntheticSpec(products=200, missing_image_share=0.5, missing_title_share=0.5, image_size=TINY)
    assert all((product.image is None) != (product.title is None) for product in products(spec))


def test_seen_says_what_titles_state(catalogue: list[Product]):
    """The truth about titles, found again by reading them."""
    for product in catalogue:
        shown = {trait.attribute for trait in product.kind.traits if trait.shown and product.image}
        for attribute, key in product.attributes.items():
            value = next(value for value in ATTRIBUTES[attribute] if value.key == key)
            in_title = product.title is not None and states(product.title, value.words(product.language)[0])
            sides = (attribute in shown, in_title)
            expected = {(True, True): "both", (True, False): "picture", (False, True): "title"}
            assert product.seen[attribute] == expected.get(sides, "neither"), (attribute, product.title)


def test_picture_kinds_have_silent_titles_and_title_kinds_do_not(catalogue: list[Product]):
    stated: dict[str, list[bool]] = {"picture": [], "title": []}
    for product in catalogue:
        if product.kind.asked_in != "both":
            seen = [product.seen[trait.attribute] in ("title", "both") for trait in product.kind.asked]
            stated[product.kind.asked_in] += seen
    assert np.mean(stated["picture"]) < 0.12
    assert np.mean(stated["title"]) > 0.88


def test_wrong_titles_state_another_value(catalogue: list[Product]):
    wrong = [product for product in catalogue if product.wrong_title]
    assert len(wrong) > 40
    for product in wrong:
        assert product.title is not None
        others = [
            value.words(product.language)[0]
            for trait in product.kind.asked
            for value in ATTRIBUTES[trait.attribute]
            if value.key != product.attributes[trait.attribute]
        ]
        assert any(states(product.title, word) for word in others), product.title


def test_titles_are_long_and_in_their_language(catalogue: list[Product]):
    def chinese(text: str) -> bool:
        return re.search("[\u4e00-\u9fff]", text) is not None

    titles = [(product.language, product.title) for product in catalogue if product.title]
    assert all(chinese(title) == (language == "zh") for language, title in titles)
    assert np.mean([len(title.split()) for language, title in titles if language == "en"]) > 9
    assert np.mean([len(title) for language, title in titles if language == "zh"]) > 20


def test_the_asked_colour_fills_the_middle_of_the_picture(catalogue: list[Product]):
    """Each middle pixel votes for the nearest colour of the palette; patterns lose the vote."""
    names, colours = list(PALETTE), np.array(list(PALETTE.values()), np.float64)
    right = []
    for product in catalogue:
        if product.kind.key in ("t-shirt", "mug", "chair", "dress") and product.image:
            middle = pixels(product)[35:47, 27:37].reshape(-1, 1, 3)
            votes = np.linalg.norm(middle - colours, axis=-1).argmin(axis=1)
            winner = names[np.bincount(votes, minlength=len(names)).argmax()]
            right.append(winner == product.attributes["colour"])
    assert len(right) > 400
    assert np.mean(right) > 0.9


def test_patterns_show(catalogue: list[Product]):
    """Cloth of one colour is even; any pattern makes its middle uneven."""
    roughness: dict[str, list[float]] = {}
    for product in catalogue:
        if product.kind.key == "t-shirt" and product.image:
            middle = pixels(product)[32:50, 24:40]
            roughness.setdefault(product.attributes["pattern"], []).append(middle.std(axis=(0, 1)).max())
    plain = np.percentile(roughness.pop("plain"), 95)
    assert set(roughness) == {"striped", "checked", "dotted", "floral"}
    for pattern, rough in roughness.items():
        assert np.mean(np.array(rough) > 2 * plain) > 0.9, pattern


def nearest_centroid_gain(made: list[Product]) -> float:
    """How far the picture helps to guess the first asked attribute, over guessing the commonest value.

    The guess is the value with the nearest mean picture, learnt on one half and judged on the other.
    """
    labels = [product.attributes[product.kind.asked[0].attribute] for product in made]
    images = np.stack([pixels(product)[20:60, 16:48].reshape(-1) for product in made])
    half = len(made) // 2
    names = sorted(set(labels[:half]))
    means = np.stack([images[:half][[label == name for label in labels[:half]]].mean(axis=0) for name in names])
    guesses = [names[np.linalg.norm(means - image, axis=1).argmin()] for image in images[half:]]
    right = np.mean([guess == label for guess, label in zip(guesses, labels[half:], strict=True)])
    commonest = Counter(labels[half:]).most_common(1)[0][1] / (len(made) - half)
    return float(right - commonest)


def test_only_picture_kinds_are_told_apart_by_their_pictures(catalogue: list[Product]):
    gains: dict[str, list[float]] = {"picture": [], "title": [], "both": []}
    for kind in KINDS:
        gains[kind.asked_in].append(
            nearest_centroid_gain([product for product in catalogue if product.kind is kind and product.image])
        )
    assert np.mean(gains["picture"]) > 0.4
    assert np.mean(gains["title"]) < 0.05


def test_streaming_needs_no_more_memory_for_more_products():
    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in products(SyntheticSpec(products=count, image_size=TINY, missing_image_share=0.8)):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(100)  # what is loaded once does not count
    assert peak(2400) < 1.2 * peak(600)


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 2), (0, 11)])
def test_a_range_outside_the_catalogue_is_refused(start: int, stop: int):
    with pytest.raises(DataError, match=rf"\[{start}, {stop}\).*\[0, 10\)"):
        products(SyntheticSpec(products=10), start, stop)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"products": 0}, "products=0 is below 1"),
        ({"products": 2.5}, "products=2.5 is not a whole number"),
        ({"seed": True}, "seed=True is not a whole number"),
        ({"queries": -1}, "queries=-1 is below 0"),
        ({"dev_queries": -3}, "dev_queries=-3 is below 0"),
        ({"chinese_share": 1.5}, r"chinese_share=1.5 is outside \[0, 1\]"),
        ({"cold_share": float("nan")}, r"cold_share=nan is outside \[0, 0.9\]"),
        ({"clicks_per_product": -1.0}, "clicks_per_product=-1.0 is outside"),
        ({"image_size": (8, 80)}, "image_size=8 is below 16"),
        ({"image_size": (64, 5000)}, r"image_size=5000 is outside \[16, 1024\]"),
        ({"image_size": (64,)}, "has 1 numbers, not 2"),
        (
            {"missing_image_share": 0.7, "missing_title_share": 0.5},
            "missing_image_share=0.7 and missing_title_share=0.5 add up to 1.2",
        ),
    ],
)
def test_a_spec_that_cannot_be_met_is_refused(fields: dict[str, Any], message: str):
    with pytest.raises(DataError, match=message):
        SyntheticSpec(**fields)
