"""Training examples as the model gets them, with what is known of where they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal, NamedTuple

import numpy as np

from data_pipelines.augmentation import NO_AUGMENT, AugmentSpec
from data_pipelines.dataset import PreparedData
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import FeedOptions
from data_pipelines.input import train_batches
from data_pipelines.plans import TrainPlans
from data_pipelines.ragged import pad_tokens
from data_pipelines.title_arrays import TitleOutput
from data_pipelines.tokenizer import TextTokenizer, load_tokenizer


class Token(NamedTuple):
    """A token as a person reads it; a special one stands for no text, an unknown one for text the tokenizer lacks."""

    text: str
    kind: Literal["text", "special", "unknown"]


class Word(NamedTuple):
    """The tokens of one word, or one special token; `keyword` if shoppers use that word."""

    tokens: list[Token]
    keyword: bool


@dataclass(frozen=True)
class Text:
    """A tokenised text, padding left out.

    Attributes:
      words: what the model sees.
      num_tokens: of these.
      num_cut: tokens that did not fit.
      cut: their text.
    """

    words: list[Word]
    num_tokens: int
    num_cut: int
    cut: str


class Picture(NamedTuple):
    """A picture as the model gets it, uint8[H, W, 3], and, where pictures are varied, what it would be otherwise."""

    seen: np.ndarray
    plain: np.ndarray | None


@dataclass(frozen=True)
class Example:
    """A pair of a batch.

    Attributes:
      product_id: the product's id.
      category: "" for none.
      title: as it was given; "" for none, or where the product's record is damaged.
      query: as it was typed, or made up.
      is_made_up: whether the query was made from the title.
      clicks: of the pair in the log.
      purchases: of the pair in the log.
      pictures: that the model sees.
      num_images: that the product has.
      num_regions: region features that the model sees.
      query_text: the tokens of the query.
      title_text: the tokens of the title.
    """

    product_id: str
    category: str
    title: str
    query: str
    is_made_up: bool
    clicks: int
    purchases: int
    pictures: list[Picture]
    num_images: int
    num_regions: int
    query_text: Text
    title_text: Text


def training_examples(
    data: PreparedData, plans: TrainPlans, augment: AugmentSpec, options: FeedOptions, *, count: int, step: int
) -> list[Example]:
    """The first `count` pairs of the batch of `step`; fewer where the batch is smaller."""
    batch = _batch(data, plans, augment, options, step)
    plain = batch if augment == NO_AUGMENT else _batch(data, plans, NO_AUGMENT, options, step)
    maker = _Maker(data, plans.shape.num_regions > 0, batch, None if plain is batch else plain["image"])
    return [maker.example(i) for i in range(min(count, len(batch["product_key"])))]


def _batch(
    data: PreparedData, plans: TrainPlans, augment: AugmentSpec, options: FeedOptions, step: int
) -> dict[str, np.ndarray]:
    with train_batches(
        data, plans, start_step=step, num_steps=1, augment=augment, titles=TitleOutput(spans=True), options=options
    ) as batches:
        return next(batches)


class _Pair(NamedTuple):
    query: int
    clicks: int
    purchases: int
    is_made_up: bool


class _Maker:
    """Makes examples of a batch."""

    def __init__(
        self, data: PreparedData, has_regions: bool, batch: dict[str, np.ndarray], plain: np.ndarray | None
    ) -> None:
        self._data, self._has_regions, self._batch, self._plain = data, has_regions, batch, plain
        self._tokenizer = load_tokenizer(data.tokenizer_path)

    def example(self, i: int) -> Example:
        """The example at position `i` of the batch."""
        data, row = self._data, int(self._batch["product_key"][i])
        pair = self._pair(row, self._batch["query_ids"][i])
        query = data.queries[pair.query]
        title, title_ids = self._stored_title(row)
        return Example(
            product_id=str(data.product_ids[row]),
            category=str(data.categories[row]),
            title=title,
            query=query,
            is_made_up=pair.is_made_up,
            clicks=pair.clicks,
            purchases=pair.purchases,
            pictures=[] if self._has_regions else self._pictures(i),
            num_images=int(data.num_images[row]),
            num_regions=int(self._batch["has_image"][i].sum()) if self._has_regions else 0,
            query_text=self._query_text(i, query, data.query_ids.take(np.array([pair.query])).values),
            title_text=self._title_text(i, title_ids),
        )

    def _pair(self, row: int, query_ids: np.ndarray) -> _Pair:
        """The pair that a product and the tokens of a query come from."""
        log, made_up = self._data.interactions, self._data.pseudo_pairs
        if len(places := self._places(log, row, query_ids)):
            query, clicks, purchases = (int(log[c][places[0]]) for c in ("query_index", "clicks", "purchases"))
            return _Pair(query, clicks, purchases, False)
        [place, *_] = self._places(made_up, row, query_ids)
        return _Pair(int(made_up["query_index"][place]), 0, 0, True)

    def _places(self, pairs: Mapping[str, np.ndarray], row: int, query_ids: np.ndarray) -> np.ndarray:
        """Where in a table of pairs a product comes with a query of these tokens."""
        data = self._data
        found = np.flatnonzero(pairs["product_index"] == row)
        tokens = pad_tokens(data.query_ids.take(pairs["query_index"][found]), len(query_ids), data.pad_id)
        return found[(tokens == query_ids).all(axis=1)]

    def _pictures(self, i: int) -> list[Picture]:
        present = np.flatnonzero(self._batch["has_image"][i])
        plain = self._plain
        return [Picture(self._batch["image"][i, k], None if plain is None else plain[i, k]) for k in present]

    def _stored_title(self, row: int) -> tuple[str, np.ndarray]:
        """The whole title and its tokens; nothing where the record is damaged."""
        try:
            [record] = self._data.records([row])
        except DataError:
            return "", np.zeros(0, np.int32)
        return record["title"], record["title_ids"]

    def _query_text(self, i: int, query: str, stored: np.ndarray) -> Text:
        ids = _unpadded(self._batch["query_ids"][i], self._data.pad_id)
        [encoded] = self._tokenizer.encode_words([query], max(3, len(ids)))
        return _text(self._tokenizer, ids, encoded.words, np.zeros(len(ids), bool), stored)

    def _title_text(self, i: int, stored: np.ndarray) -> Text:
        ids = _unpadded(self._batch["title_ids"][i], self._data.pad_id)
        words, keywords = (self._batch[name][i, : len(ids)] for name in ("title_words", "title_keywords"))
        return _text(self._tokenizer, ids, words, keywords, stored)


def _unpadded(ids: np.ndarray, pad_id: int) -> np.ndarray:
    return ids[: len(ids) - int(np.argmax(ids[::-1] != pad_id)) if (ids != pad_id).any() else 0]


def _text(
    tokenizer: TextTokenizer, ids: np.ndarray, words: np.ndarray, keywords: np.ndarray, stored: np.ndarray
) -> Text:
    """Groups tokens by word; `stored` are all tokens of the text, of which those before the last one may be cut."""
    cut = stored[len(ids) - 1 : -1] if 0 < len(ids) < len(stored) else stored[:0]
    tokens = _tokens(tokenizer, ids.tolist())
    places = groupby(range(len(ids)), key=lambda place: (int(words[place]), place if words[place] < 0 else -1))
    grouped = [list(group) for _, group in places]
    return Text(
        words=[Word([tokens[place] for place in group], bool(keywords[group[0]])) for group in grouped],
        num_tokens=len(ids),
        num_cut=len(cut),
        cut=tokenizer.decode(cut),
    )


def _tokens(tokenizer: TextTokenizer, ids: Sequence[int]) -> list[Token]:
    special = set(tokenizer.special_ids)
    ends = {0: "start", len(ids) - 1: "end"}

    def token(place: int, number: int) -> Token:
        if number == tokenizer.unk_id:
            return Token("unknown", "unknown")
        if number in special:
            return Token(ends.get(place, "special"), "special")
        return Token(tokenizer.decode([number]) or "␣", "text")  # some tokens are only the space before a word

    return [token(place, number) for place, number in enumerate(ids)]
