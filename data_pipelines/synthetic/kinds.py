"""The kinds of product in the synthetic catalogue, and where each one shows what shoppers ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data_pipelines.synthetic.vocabulary import Language

AskedIn = Literal["title", "picture", "both"]

MAX_TRAITS = 4  # traits of the kind with the most of them
MAX_ASKED = 3  # of which shoppers ask for at most so many


@dataclass(frozen=True)
class Trait:
    """One attribute of a kind.

    Attributes:
      attribute: key of `vocabulary.ATTRIBUTES`.
      shown: whether the picture shows it.
      written: probability that a seller's title states it.
      asked: whether shoppers ask for it.
    """

    attribute: str
    shown: bool
    written: float
    asked: bool = True


@dataclass(frozen=True)
class Kind:
    """One kind of product.

    Attributes:
      key: name in the truth table.
      category: path such as "Clothing > Dresses".
      en, zh: names; sellers use the first and stuff titles with the others, shoppers use any.
      traits: the asked ones first, the most asked for foremost; at most `MAX_TRAITS`.
    """

    key: str
    category: str
    en: tuple[str, ...]
    zh: tuple[str, ...]
    traits: tuple[Trait, ...]

    def names(self, language: Language) -> tuple[str, ...]:
        """What this kind is called in one language."""
        return self.en if language == "en" else self.zh

    @property
    def asked(self) -> tuple[Trait, ...]:
        """The traits that shoppers ask for."""
        return tuple(trait for trait in self.traits if trait.asked)

    @property
    def asked_in(self) -> AskedIn:
        """Where shoppers must look to see what they asked for."""
        return where_asked(self.asked)


def where_asked(traits: tuple[Trait, ...]) -> AskedIn:
    """Where the given traits can be seen; "both" too for no traits, as either side tells the kind."""
    shown = {trait.shown for trait in traits}
    if len(shown) != 1:
        return "both"
    return "picture" if shown.pop() else "title"


def _shown(attribute: str, written: float = 0.05) -> Trait:
    return Trait(attribute, shown=True, written=written)


def _written(attribute: str) -> Trait:
    return Trait(attribute, shown=False, written=0.97)


_BRAND_ASKED = _written("brand")
_BRAND = Trait("brand", shown=False, written=0.8, asked=False)
_COLOUR, _PATTERN = _shown("colour"), _shown("pattern", written=0.08)

KINDS: tuple[Kind, ...] = (
    # Clothes and the like: sellers leave to the picture what it shows.
    Kind("t-shirt", "Clothing > T-shirts", ("t-shirt", "tee"), ("T恤", "短袖衫"), (_COLOUR, _PATTERN, _BRAND)),
    Kind("dress", "Clothing > Dresses", ("dress", "frock"), ("连衣裙", "裙子"), (_COLOUR, _PATTERN, _BRAND)),
    Kind(
        "trousers",
        "Clothing > Trousers",
        ("trousers", "pants"),
        ("长裤", "裤子"),
        (_COLOUR, _PATTERN, _BRAND),
    ),
    Kind("shoe", "Footwear > Sneakers", ("sneakers", "trainers"), ("运动鞋", "跑鞋"), (_COLOUR, _BRAND)),
    Kind("handbag", "Bags > Handbags", ("handbag", "purse"), ("手提包", "女包"), (_COLOUR, _PATTERN, _BRAND)),
    Kind("hat", "Accessories > Hats", ("hat", "sun hat"), ("帽子", "遮阳帽"), (_COLOUR, _PATTERN, _BRAND)),
    # One looks like the next: only the title tells.
    Kind(
        "charger",
        "Electronics > Chargers",
        ("charger", "power adapter"),
        ("充电器", "充电头"),
        (_written("power"), _written("connector"), _BRAND_ASKED),
    ),
    Kind(
        "cable",
        "Electronics > Cables",
        ("cable", "charging lead"),
        ("数据线", "充电线"),
        (_written("connector"), _written("length"), _BRAND),
    ),
    Kind(
        "perfume",
        "Beauty > Perfumes",
        ("perfume", "fragrance"),
        ("香水", "淡香水"),
        (_written("scent"), _written("volume"), _BRAND_ASKED),
    ),
    Kind(
        "cartridge",
        "Office > Ink cartridges",
        ("ink cartridge", "printer ink"),
        ("墨盒", "打印机墨盒"),
        (_written("model"), _written("pack"), _BRAND),
    ),
    Kind(
        "book",
        "Books > Guides",
        ("book", "guide book"),
        ("图书", "书籍"),
        (_written("subject"), _written("binding"), _BRAND),
    ),
    Kind(
        "battery",
        "Electronics > Batteries",
        ("batteries", "battery"),
        ("电池", "干电池"),
        (_written("cell"), _written("pack"), _BRAND),
    ),
    # The colour is in the picture, the rest in the title.
    Kind(
        "mug",
        "Kitchen > Mugs",
        ("mug", "coffee cup"),
        ("马克杯", "水杯"),
        (_shown("colour", 0.15), _written("capacity"), _BRAND),
    ),
    Kind(
        "lamp",
        "Home > Lamps",
        ("lamp", "table lamp"),
        ("台灯", "床头灯"),
        (_shown("colour", 0.15), _written("control"), _BRAND),
    ),
    Kind(
        "chair",
        "Home > Chairs",
        ("chair", "armchair"),
        ("椅子", "靠背椅"),
        (_shown("colour", 0.15), _written("material"), _BRAND),
    ),
    Kind(
        "watch",
        "Accessories > Watches",
        ("watch", "wristwatch"),
        ("手表", "腕表"),
        (_shown("colour", 0.15), _written("movement"), _BRAND),
    ),
    Kind(
        "umbrella",
        "Accessories > Umbrellas",
        ("umbrella", "brolly"),
        ("雨伞", "遮阳伞"),
        (_shown("colour", 0.15), _written("opening"), _PATTERN, _BRAND),
    ),
)

KIND_KEYS = tuple(kind.key for kind in KINDS)
