"""Clean text, its words, and when two queries count as equal."""

from __future__ import annotations

import unicodedata


def clean_text(text: str) -> str:
    """NFC form without control characters and byte order marks; runs of white space become one space."""
    text = unicodedata.normalize("NFC", text)
    if not text.isprintable():
        text = "".join(c for c in text if c.isspace() or (unicodedata.category(c) != "Cc" and c != "\ufeff"))
    return " ".join(text.split())


def words(text: str) -> list[str]:
    """The words of a text, in order: NFKC, case-folded runs of letters, marks and digits.

    CJK runs stay whole. Marks belong to words: without them Devanagari would fall apart at every vowel sign. Those
    that follow no letter (the one that colours an emoji, say) are no words.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept, inside = [], False
    for character in folded:
        category = unicodedata.category(character)[0]
        inside = category in "LN" or (inside and category == "M")
        kept.append(character if inside else " ")
    return "".join(kept).split()


def query_keyword_key(text: str) -> str:
    """What equal queries share: their distinct words, sorted; "t-shirt red" and "Red T-Shirt" are equal.

    A query without words (an emoji, say) is equal to itself only.
    """
    return " ".join(sorted(set(words(text)))) or text.casefold()
