"""The products themselves, streamed: each one a function of the spec and its number."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.synthetic.columns import columns_of, is_cold, uniform
from data_pipelines.synthetic.drawing import draw_product
from data_pipelines.synthetic.kinds import KINDS, Kind
from data_pipelines.synthetic.spec import SyntheticSpec
from data_pipelines.synthetic.vocabulary import ATTRIBUTES, LANGUAGES, Language, Value
from data_pipelines.synthetic.wording import title_of

Seen = Literal["title", "picture", "both", "neither"]
_CHUNK = 512


@dataclass(frozen=True)
class Product:
    """One product as its seller lists it, and the truth about it.

    Attributes:
      product_id: such as "p0000042".
      title: the seller's title; None if missing.
      image: JPEG bytes; None if missing.
      category: such as "Clothing > Dresses".
      kind: what it is.
      language: of its title, "en" or "zh".
      attributes: attribute -> value key, true whatever the title says.
      seen: attribute -> where a shopper can see the true value.
      wrong_title: the title states one value wrongly.
      cold: nobody has clicked it.
    """

    product_id: str
    title: str | None
    image: bytes | None
    category: str
    kind: Kind
    language: Language
    attributes: Mapping[str, str]
    seen: Mapping[str, Seen]
    wrong_title: bool
    cold: bool


def product_id(number: int) -> str:
    """The id of the product with this number."""
    return f"p{number:07d}"


def products(spec: SyntheticSpec, start: int = 0, stop: int | None = None) -> Iterator[Product]:
    """Stream products `start` to `stop` (exclusive; default: all), in constant memory.

    Any part can be made anywhere: a product depends on the spec's seed and shares and on its own number only.

    Raises:
      DataError: the range lies outside the catalogue.
    """
    end = spec.products if stop is None else stop
    if not 0 <= start <= end <= spec.products:
        raise DataError(
            f"synthetic catalogue: range [{start}, {end}) lies outside [0, {spec.products}); "
            "ask for a part of the catalogue or raise products"
        )
    return _stream(spec, start, end)


def _stream(spec: SyntheticSpec, start: int, end: int) -> Iterator[Product]:
    for first in range(start, end, _CHUNK):
        ids = np.arange(first, min(first + _CHUNK, end))
        columns = columns_of(spec, ids)
        cold = is_cold(spec, ids).tolist()
        wrong = (uniform(spec.seed, "wrong title", ids) < spec.wrong_title_share).tolist()
        missing = uniform(spec.seed, "missing", ids)
        no_image = (missing < spec.missing_image_share).tolist()
        no_title = (missing >= 1 - spec.missing_title_share).tolist()
        for row, number in enumerate(ids.tolist()):
            kind = KINDS[columns.kind[row]]
            values = {
                trait.attribute: ATTRIBUTES[trait.attribute][code]
                for trait, code in zip(kind.traits, columns.values[row].tolist(), strict=False)
            }
            yield _product(
                spec,
                number,
                kind,
                LANGUAGES[columns.language[row]],
                values,
                wrong=wrong[row] and not no_title[row],
                has_image=not no_image[row],
                has_title=not no_title[row],
                cold=cold[row],
            )


def _product(
    spec: SyntheticSpec,
    number: int,
    kind: Kind,
    language: Language,
    values: Mapping[str, Value],
    *,
    wrong: bool,
    has_image: bool,
    has_title: bool,
    cold: bool,
) -> Product:
    words = random.Random(f"{spec.seed} {number} title")
    stated = _stated(kind, values, wrong, words)
    title = title_of(kind, stated, language, words) if has_title else None
    image = None
    if has_image:
        looks = {trait.attribute: values[trait.attribute].key for trait in kind.traits if trait.shown}
        pen = random.Random(f"{spec.seed} {number} picture")
        image = draw_product(kind.key, looks.get("colour"), looks.get("pattern"), spec.image_size, pen)
    seen = {
        trait.attribute: _where(
            has_image and trait.shown, has_title and stated.get(trait.attribute) is values[trait.attribute]
        )
        for trait in kind.traits
    }
    return Product(
        product_id=product_id(number),
        title=title,
        image=image,
        category=kind.category,
        kind=kind,
        language=language,
        attributes={attribute: value.key for attribute, value in values.items()},
        seen=seen,
        wrong_title=wrong,
        cold=cold,
    )


def _stated(kind: Kind, values: Mapping[str, Value], wrong: bool, rng: random.Random) -> dict[str, Value]:
    """What the title states; if wrong, one asked attribute is stated with another value."""
    stated = {trait.attribute: values[trait.attribute] for trait in kind.traits if rng.random() < trait.written}
    if wrong:
        attribute = rng.choice(kind.asked).attribute
        stated[attribute] = rng.choice([value for value in ATTRIBUTES[attribute] if value is not values[attribute]])
    return stated


def _where(in_picture: bool, in_title: bool) -> Seen:
    if in_picture:
        return "both" if in_title else "picture"
    return "title" if in_title else "neither"
