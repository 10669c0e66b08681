"""Learns a tokenizer from the catalogue's titles and queries."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Literal

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_pipelines.errors import DataError
from data_pipelines.tokenizer import TextTokenizer, encodable

TokenizerKind = Literal["wordpiece", "unigram"]

SPECIAL_TOKENS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
PAD, UNK, CLS, SEP, MASK = range(5)
MIN_VOCAB_SIZE = 64
_ALPHABET_SHARE = 0.75  # of the vocabulary, at most, goes to single characters before longer pieces get theirs


def train_tokenizer(texts: Iterable[str], vocab_size: int = 8192, kind: TokenizerKind = "wordpiece") -> TextTokenizer:
    """Learns a vocabulary; the same texts in the same order give the same tokenizer, to the byte.

    Text is NFKC-normalised and lower-cased, and CJK characters stand alone. Accents and vowel signs are kept:
    they carry meaning in most scripts.

    Args:
      texts: titles and queries, read twice, so not an iterator.
      vocab_size: V at most, at least 64; small corpora give fewer tokens.
      kind: "wordpiece" or "unigram".

    Raises:
      DataError: vocab_size or kind out of bounds.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise DataError(f"vocab_size={vocab_size} is too small; use {MIN_VOCAB_SIZE} or more")
    if kind not in ("wordpiece", "unigram"):
        raise DataError(f"tokenizer kind {kind!r} is unknown; use 'wordpiece' or 'unigram'")
    tokenizer = (_train_wordpiece if kind == "wordpiece" else _train_unigram)(texts, vocab_size)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS.values()))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return TextTokenizer(tokenizer, SPECIAL_TOKENS)


def _train_wordpiece(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    scratch = _with_text_rules(Tokenizer(models.WordPiece(unk_token="[UNK]")))
    # Left alone, the trainer numbers the single characters in hash order and breaks ties by number, so no two
    # runs agree. Handing them over in our order, as if they were special, settles both.
    alphabet = _alphabet(scratch, texts)
    first = alphabet[: int(vocab_size * _ALPHABET_SHARE)]
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        limit_alphabet=0,
        special_tokens=[*SPECIAL_TOKENS.values(), *first],
        show_progress=False,
    )
    scratch.train_from_iterator(map(encodable, texts), trainer)
    vocabulary = scratch.get_vocab()
    for piece in alphabet[len(first) :][: vocab_size - len(vocabulary)]:  # what longer pieces leave free
        vocabulary[piece] = len(vocabulary)
    model = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer = _with_text_rules(Tokenizer(model))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def _alphabet(tokenizer: Tokenizer, texts: Iterable[str]) -> list[str]:
    """Single-character pieces, most frequent first; last those that were not met but may yet be."""
    counts: Counter[str] = Counter()
    for word, count in Counter(_split_words(tokenizer, texts)).items():
        counts[word[0]] += count
        for character in word[1:]:
            counts["##" + character] += count
    for piece in list(counts):
        character = piece.removeprefix("##")
        if len(list(_split_words(tokenizer, ["a" + character]))) == 1:
            counts["##" + character] += 0
        counts[character] += 0
    return sorted(counts, key=lambda piece: (-counts[piece], piece))


def _split_words(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        normal = tokenizer.normalizer.normalize_str(encodable(text))
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
            yield word


def _train_unigram(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    scratch = _with_text_rules(Tokenizer(models.Unigram()), metaspace=True)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS.values()), unk_token="[UNK]", show_progress=False
    )
    scratch.train_from_iterator(map(encodable, texts), trainer)
    special = len(SPECIAL_TOKENS)
    learnt = json.loads(scratch.to_str())["model"]["vocab"][special:]
    # Sums in hash order make the last digits of the scores, and the order of equal ones, differ between runs.
    pieces = sorted(((piece, round(score, 4)) for piece, score in learnt), key=lambda item: (-item[1], item[0]))
    model = models.Unigram([*((token, 0.0) for token in SPECIAL_TOKENS.values()), *pieces], unk_id=UNK)
    tokenizer = _with_text_rules(Tokenizer(model), metaspace=True)
    tokenizer.decoder = decoders.Metaspace()
    return tokenizer


def _with_text_rules(tokenizer: Tokenizer, metaspace: bool = False) -> Tokenizer:
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True),
        ]
    )
    words = pre_tokenizers.BertPreTokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.Metaspace()]) if metaspace else words
    return tokenizer
