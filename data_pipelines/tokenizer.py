"""The tokenizer: trained on the catalogue's titles and queries. Only this module knows the library."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from data_pipelines.errors import DataError

TokenizerKind = Literal["wordpiece", "unigram"]

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD, UNK, CLS, SEP, MASK = range(5)
MIN_VOCAB_SIZE = 64
_ALPHABET_SHARE = 0.75  # of the vocabulary, at most, goes to single characters before longer pieces get theirs
_FILE = "tokenizer.json"


class TextTokenizer:
    """Turns text into token ids; made by `train_tokenizer` or `load_tokenizer`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True  # "[PAD]" in a title is text, not padding
        self._tokenizer = tokenizer

    @property
    def vocab_size(self) -> int:
        """V: ids are below this."""
        return self._tokenizer.get_vocab_size()

    def encode(self, texts: Sequence[str], max_tokens: int) -> list[np.ndarray]:
        """Encodes texts as [CLS] ... [SEP]; a longer one loses tokens before its [SEP], never the [SEP].

        Args:
          texts: B texts; one of white space only has no tokens.
          max_tokens: the longest result, at least 3.

        Returns:
          B arrays int32[<= max_tokens].
        """
        if max_tokens < 3:
            raise DataError(f"max_tokens={max_tokens} leaves no room between [CLS] and [SEP]; use 3 or more")
        encoded = self._tokenizer.encode_batch_fast([_encodable(text) for text in texts])
        return [
            _cut(np.array(encoding.ids if text.strip() else [], np.int32), max_tokens)
            for text, encoding in zip(texts, encoded, strict=True)
        ]

    def encode_padded(self, texts: Sequence[str], max_tokens: int) -> np.ndarray:
        """Encodes texts as int32[B, max_tokens], 0-padded; a text of white space only is all 0."""
        padded = np.zeros((len(texts), max_tokens), np.int32)
        for row, ids in zip(padded, self.encode(texts, max_tokens), strict=True):
            row[: len(ids)] = ids
        return padded

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, special ones left out."""
        return self._tokenizer.decode([int(i) for i in ids])

    def save(self, path: Path) -> None:
        """Writes a directory that `load_tokenizer` and `transformers.AutoTokenizer.from_pretrained` open."""
        # On import transformers warns that there is no PyTorch, which nobody here needs.
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from transformers import PreTrainedTokenizerFast

        names = dict(
            zip(
                ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"),
                SPECIAL_TOKENS,
                strict=True,
            )
        )
        PreTrainedTokenizerFast(tokenizer_object=self._tokenizer, **names).save_pretrained(str(path))


def load_tokenizer(path: str | Path) -> TextTokenizer:
    """Opens a directory with a tokenizer.json.

    Raises:
      DataError: the file is absent or damaged.
    """
    file = Path(path) / _FILE
    try:
        return TextTokenizer(Tokenizer.from_file(str(file)))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{file} cannot be read as a tokenizer: {error}; name a directory that holds one") from error


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
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)]
    )
    return TextTokenizer(tokenizer)


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
        special_tokens=[*SPECIAL_TOKENS, *first],
        show_progress=False,
    )
    scratch.train_from_iterator(map(_encodable, texts), trainer)
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
        normal = tokenizer.normalizer.normalize_str(_encodable(text))
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal):
            yield word


def _train_unigram(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    scratch = _with_text_rules(Tokenizer(models.Unigram()), metaspace=True)
    trainer = trainers.UnigramTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL_TOKENS), unk_token="[UNK]", show_progress=False
    )
    scratch.train_from_iterator(map(_encodable, texts), trainer)
    special = len(SPECIAL_TOKENS)
    learnt = json.loads(scratch.to_str())["model"]["vocab"][special:]
    # Sums in hash order make the last digits of the scores, and the order of equal ones, differ between runs.
    pieces = sorted(((piece, round(score, 4)) for piece, score in learnt), key=lambda item: (-item[1], item[0]))
    model = models.Unigram([*((token, 0.0) for token in SPECIAL_TOKENS), *pieces], unk_id=UNK)
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


def _cut(ids: np.ndarray, max_tokens: int) -> np.ndarray:
    return ids if len(ids) <= max_tokens else np.append(ids[: max_tokens - 1], ids[-1])


def _encodable(text: str) -> str:
    """Lone surrogates cannot be handed to the library; they become question marks."""
    return text.encode("utf-8", "replace").decode()
