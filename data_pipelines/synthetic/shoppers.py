"""What shoppers ask for, which products answer it, and what they click."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from data_pipelines.errors import DataError
from data_pipelines.synthetic.columns import all_columns, columns_of, is_cold, popularity, uniform
from data_pipelines.synthetic.kinds import KINDS, MAX_ASKED, AskedIn, Kind, where_asked
from data_pipelines.synthetic.spec import SyntheticSpec
from data_pipelines.synthetic.vocabulary import ATTRIBUTES, LANGUAGES, Language
from data_pipelines.synthetic.wording import query_of

DAYS = 28
_RADIX = 32  # more than any attribute has values
_BOUGHT = 0.15  # share of fitting clicks that end in a purchase
_BOUGHT_CARELESSLY = 0.01
_TRIES = 100  # wordings tried for each development query before giving up

# How often shoppers ask for which of a kind's asked traits (bits), by how many there are.
_MASKS: dict[int, dict[int, float]] = {
    1: {0b0: 0.1, 0b1: 0.9},
    2: {0b00: 0.07, 0b01: 0.38, 0b10: 0.25, 0b11: 0.3},
    3: {0b000: 0.06, 0b001: 0.25, 0b010: 0.22, 0b100: 0.14, 0b011: 0.17, 0b101: 0.08, 0b110: 0.08},
}


@dataclass(frozen=True)
class Intent:
    """What one shopper is after.

    Attributes:
      kind: the kind of product.
      language: the shopper's, and that of the listings that answer.
      codes: for each asked trait of the kind, the value's index, or -1 if any will do.
    """

    kind: Kind
    language: Language
    codes: tuple[int, ...]

    @property
    def asked(self) -> dict[str, str]:
        """Attribute -> key of the value asked for."""
        return {
            trait.attribute: ATTRIBUTES[trait.attribute][code].key
            for trait, code in zip(self.kind.asked, self.codes, strict=True)
            if code >= 0
        }

    @property
    def asked_in(self) -> AskedIn:
        """Where the asked values can be seen; "both" if only the kind is asked for."""
        pairs = zip(self.kind.asked, self.codes, strict=True)
        return where_asked(tuple(trait for trait, code in pairs if code >= 0))


@dataclass(frozen=True)
class DevQuery:
    """A query to judge a model on.

    Attributes:
      query: its text.
      intent: what it asks for.
      novel: the click log has no query for this combination.
    """

    query: str
    intent: Intent
    novel: bool


@dataclass(frozen=True)
class Clicks:
    """Clicks of one intent's shoppers, one row per (query, product, day).

    Attributes:
      queries: str[n].
      products: int64[n], product numbers.
      clicks, purchases: int32[n].
      days: int32[n], 1 to 28.
    """

    queries: np.ndarray
    products: np.ndarray
    clicks: np.ndarray
    purchases: np.ndarray
    days: np.ndarray


@dataclass(frozen=True)
class _Visits:
    """The shoppers of one intent: their numbers, clicks of each, and the clickable products that fit."""

    code: int
    numbers: np.ndarray
    counts: np.ndarray
    fitting: np.ndarray
    rng: np.random.Generator


class Shoppers:
    """Everything asked and clicked in one catalogue.

    Holds about 15 bytes a product and 8 a query; queries, clicks and answers are made as they are asked for.
    """

    def __init__(self, spec: SyntheticSpec) -> None:
        self._spec = spec
        self._columns = all_columns(spec)
        group = self._columns.language.astype(np.int16) * len(KINDS) + self._columns.kind
        self._order = np.argsort(group, kind="stable").astype(np.int32)
        self._bounds = np.searchsorted(group[self._order], np.arange(len(KINDS) * len(LANGUAGES) + 1))
        self._train = _intents(spec, "train", spec.train_queries, withhold=True)

    def dev_queries(self) -> list[DevQuery]:
        """`dev_queries` distinct texts, each answered by at least one product.

        Raises:
          DataError: so small a catalogue does not give so many.
        """
        wanted = self._spec.dev_queries
        seen = {visit.code for visit in self._visits()}
        found: dict[str, DevQuery] = {}
        for number, code in enumerate(_intents(self._spec, "dev", wanted * _TRIES, withhold=False).tolist()):
            if len(found) == wanted:
                break
            intent = _decode(code)
            text = self._text(intent, "dev", number)
            found.setdefault(text, DevQuery(text, intent, novel=code not in seen))
        if len(found) < wanted:
            raise DataError(
                f"synthetic catalogue: products={self._spec.products} give only {len(found)} distinct "
                f"queries, not dev_queries={wanted}; ask for fewer queries or more products"
            )
        return list(found.values())

    def relevance(self, intent: Intent) -> tuple[np.ndarray, np.ndarray]:
        """Every product of the right kind and language, with 2 if it is all that was asked for, else 1.

        Returns:
          int32[n] ascending and int8[n].
        """
        members = self._members(intent)
        values = self._columns.values[members, : len(intent.codes)]
        codes = np.array(intent.codes, np.int8)
        fits = ((values == codes) | (codes < 0)).all(axis=1)
        return members, np.where(fits, 2, 1).astype(np.int8)

    def clicks(self) -> Iterator[Clicks]:
        """The click log, one intent after the other."""
        warm = {language: self._warm(language) for language in LANGUAGES}
        for visit in self._visits():
            intent = _decode(visit.code)
            texts = [self._text(intent, "train", number) for number in visit.numbers.tolist()]
            yield self._click(texts, visit, warm[intent.language])

    def _visits(self) -> Iterator[_Visits]:
        spec = self._spec
        order = np.argsort(self._train, kind="stable")
        codes, starts = np.unique(self._train[order], return_index=True)
        ends = [*starts[1:].tolist(), len(order)]
        # For u uniform the mean of u^-s is 1 / (1 - s), hence the factor.
        share = 1 - spec.query_exponent
        mean = spec.clicks_per_product * spec.products / max(spec.train_queries, 1) * share
        for code, start, end in zip(codes.tolist(), starts.tolist(), ends[: len(codes)], strict=True):
            members, relevance = self.relevance(_decode(code))
            fitting = members[relevance == 2]
            fitting = fitting[~is_cold(spec, fitting)]
            rng = np.random.default_rng([spec.seed, code])
            numbers = order[start:end]
            rates = mean * uniform(spec.seed, "query popularity", numbers) ** -spec.query_exponent
            counts = rng.poisson(rates)
            if len(fitting) and counts.any():  # else all that these shoppers wanted is new in the shop
                yield _Visits(code, numbers, counts, fitting, rng)

    def _click(self, texts: list[str], visit: _Visits, warm: np.ndarray) -> Clicks:
        fitting, rng = visit.fitting, visit.rng
        names, text_of = np.unique(np.array(texts, dtype=object), return_inverse=True)
        query = np.repeat(text_of, visit.counts)
        weights = popularity(self._spec, fitting)
        product = rng.choice(fitting, size=len(query), p=weights / weights.sum()).astype(np.int64)
        careless = rng.random(len(query)) < self._spec.careless_share
        product[careless] = rng.choice(warm, size=int(careless.sum()))
        bought = rng.random(len(query)) < np.where(careless, _BOUGHT_CARELESSLY, _BOUGHT)
        day = rng.integers(1, DAYS + 1, size=len(query))
        events = np.stack([query, product, day], axis=1)
        rows, which, clicks = np.unique(events, axis=0, return_inverse=True, return_counts=True)
        purchases = np.bincount(which.reshape(-1), weights=bought, minlength=len(rows))
        return Clicks(
            names[rows[:, 0]],
            rows[:, 1],
            clicks.astype(np.int32),
            purchases.astype(np.int32),
            rows[:, 2].astype(np.int32),
        )

    def _members(self, intent: Intent) -> np.ndarray:
        group = LANGUAGES.index(intent.language) * len(KINDS) + KINDS.index(intent.kind)
        return self._order[self._bounds[group] : self._bounds[group + 1]]

    def _warm(self, language: Language) -> np.ndarray:
        ids = np.flatnonzero(self._columns.language == LANGUAGES.index(language)).astype(np.int32)
        return ids[~is_cold(self._spec, ids)]

    def _text(self, intent: Intent, purpose: str, number: int) -> str:
        rng = random.Random(f"{self._spec.seed} {number} {purpose} query")
        return query_of(intent.kind, intent.asked, intent.language, rng)


def _intents(spec: SyntheticSpec, purpose: str, count: int, *, withhold: bool) -> np.ndarray:
    """What `count` shoppers ask for: int64[count] codes.

    Each has a product in mind, any one being as likely as another, and names some of its traits, so common
    combinations are asked for more. With `withhold` the combinations kept for novel queries are drawn again.
    """
    numbers = np.arange(count)
    codes = np.empty(count, np.int64)
    attempt = 0
    while len(numbers):
        drawn = _draw(spec, f"{purpose} {attempt}", numbers)
        codes[numbers] = drawn
        numbers = numbers[_withheld(spec, drawn)] if withhold else numbers[:0]
        attempt += 1
    return codes


def _draw(spec: SyntheticSpec, purpose: str, numbers: np.ndarray) -> np.ndarray:
    wanted = (uniform(spec.seed, f"{purpose} wanted", numbers) * spec.products).astype(np.int64)
    columns = columns_of(spec, wanted)
    draw = uniform(spec.seed, f"{purpose} mask", numbers)
    asked = np.array([len(kind.asked) for kind in KINDS])[columns.kind]
    mask = np.zeros(len(numbers), np.int64)
    for count, shares in _MASKS.items():
        rows = asked == count
        edges = np.cumsum(list(shares.values()))[:-1]
        mask[rows] = np.array(list(shares))[np.searchsorted(edges, draw[rows], side="right")]
    codes = columns.language.astype(np.int64) * len(KINDS) + columns.kind
    for slot in range(MAX_ASKED):
        named = (mask >> slot) & 1
        codes = codes * _RADIX + named * (columns.values[:, slot] + 1)
    return codes


def _withheld(spec: SyntheticSpec, codes: np.ndarray) -> np.ndarray:
    """Whether a combination is never asked for in training; the bare kind always is."""
    return (uniform(spec.seed, "novel", codes) < spec.novel_share) & (codes % _RADIX**MAX_ASKED > 0)


def _decode(code: int) -> Intent:
    group, rest = divmod(code, _RADIX**MAX_ASKED)
    language, index = divmod(group, len(KINDS))
    kind = KINDS[index]
    slots = [rest // _RADIX ** (MAX_ASKED - 1 - slot) % _RADIX - 1 for slot in range(len(kind.asked))]
    return Intent(kind, LANGUAGES[language], tuple(slots))
