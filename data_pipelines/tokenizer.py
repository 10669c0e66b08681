"""Text to token ids and back, with a tokenizer of our own or a pretrained one."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from data_pipelines.errors import DataError
from data_pipelines.text_units import text_runs

_SAVED_CLASS = "TokenizersBackend"  # as which transformers saves tokenizers that are wholly in tokenizer.json


class EncodedText(NamedTuple):
    """The L tokens of one text.

    Attributes:
      ids: int32[L].
      words: int32[L], the number of the word that each token belongs to, counted from 0; -1 for special tokens. Every
        character of a script without spaces is a word (so is a symbol), and words that share a token are one.
      spans: int32[L, 2], the characters from and to before that each token stands for; 0, 0 for special tokens.
    """

    ids: np.ndarray
    words: np.ndarray
    spans: np.ndarray


class TextTokenizer:
    """Turns text into token ids; made by `train_tokenizer`, `load_tokenizer` or `pretrained_tokenizer`.

    Special tokens stand where the tokenizer itself puts them, usually at both ends. Written in a text, their names are
    text.
    """

    def __init__(self, tokenizer: Tokenizer, special_tokens: Mapping[str, str]) -> None:
        """Wraps a tokenizer of the tokenizers library.

        Args:
          tokenizer: it is changed, so hand over one of your own.
          special_tokens: by their names in transformers, such as "pad_token" and "mask_token".

        Raises:
          DataError: there is no padding token.
        """
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        self._tokenizer = tokenizer
        self._special_tokens = dict(special_tokens)
        self.mask_id = self._special_id("mask_token")
        self.unk_id = self._special_id("unk_token")
        pad_id = self._special_id("pad_token")
        if pad_id is None:
            raise DataError(
                "the tokenizer has no padding token, so short texts cannot fill a batch; name one that its vocabulary "
                'holds as "pad_token" in its tokenizer_config.json'
            )
        self.pad_id = pad_id
        added = tokenizer.get_added_tokens_decoder()
        ids = {i for i, token in added.items() if token.special} | set(map(self._special_id, special_tokens))
        self._special = frozenset(i for i in ids if i is not None)

    def __reduce__(self) -> tuple[Any, ...]:
        return TextTokenizer, (self._tokenizer, self._special_tokens)  # the library itself forgets some settings

    def _special_id(self, name: str) -> int | None:
        token = self._special_tokens.get(name)
        return None if token is None else self._tokenizer.token_to_id(token)

    @cached_property
    def vocab_size(self) -> int:
        """V: ids are below this."""
        return max(self._tokenizer.get_vocab().values()) + 1

    @property
    def special_ids(self) -> list[int]:
        """The ids of all special tokens, sorted."""
        return sorted(self._special)

    def encode(self, texts: Sequence[str], max_tokens: int) -> list[np.ndarray]:
        """Encodes texts; a longer one loses tokens before its last one, which is special.

        Args:
          texts: B texts; one of white space only has no tokens.
          max_tokens: the longest result, at least 3.

        Returns:
          B arrays int32[<= max_tokens].

        Raises:
          DataError: max_tokens is too small.
        """
        _check_length(max_tokens)
        encoded = self._tokenizer.encode_batch_fast([encodable(text) for text in texts])
        return [
            _cut(np.array(self._ids(encoding) if text.strip() else [], np.int32), max_tokens)
            for text, encoding in zip(texts, encoded, strict=True)
        ]

    def encode_words(self, texts: Sequence[str], max_tokens: int) -> list[EncodedText]:
        """Encodes texts as `encode` does, and tells which word each token belongs to.

        Words are those of the text, not the tokenizer's own, some of which take a whole Chinese title for one word.

        Args:
          texts: B texts; one of white space only has no tokens.
          max_tokens: the longest result, at least 3.

        Raises:
          DataError: max_tokens is too small.
        """
        _check_length(max_tokens)
        encoded = self._tokenizer.encode_batch([encodable(text) for text in texts])
        return [self._with_words(text, encoding, max_tokens) for text, encoding in zip(texts, encoded, strict=True)]

    def _with_words(self, text: str, encoding: Any, max_tokens: int) -> EncodedText:
        if not text.strip():
            return EncodedText(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros((0, 2), np.int32))
        words = _number_words(text, encoding.offsets, encoding.special_tokens_mask)
        columns = self._ids(encoding), words, encoding.offsets
        return EncodedText(*(_cut(np.array(column, np.int32), max_tokens) for column in columns))

    def _ids(self, encoding: Any) -> list[int]:
        """The ids of a text; special tokens that a unigram model finds in it, by their names, become unknown ones."""
        if self.unk_id is None:
            return encoding.ids
        tokens = zip(encoding.ids, encoding.special_tokens_mask, strict=True)
        return [i if is_special or i not in self._special else self.unk_id for i, is_special in tokens]

    def encode_padded(self, texts: Sequence[str], max_tokens: int) -> np.ndarray:
        """Encodes texts as int32[B, max_tokens], padded with `pad_id`; a text of white space only is all padding."""
        padded = np.full((len(texts), max_tokens), self.pad_id, np.int32)
        for row, ids in zip(padded, self.encode(texts, max_tokens), strict=True):
            row[: len(ids)] = ids
        return padded

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids, special ones left out."""
        return self._tokenizer.decode([int(i) for i in ids])

    def save(self, path: Path) -> None:
        """Writes a directory that `load_tokenizer` and `transformers.AutoTokenizer.from_pretrained` open."""
        fast = _transformers().PreTrainedTokenizerFast(tokenizer_object=self._tokenizer, **self._special_tokens)
        fast.save_pretrained(str(path))


def load_tokenizer(folder: str | Path) -> TextTokenizer:
    """Opens a directory that holds a tokenizer: one of ours or any that transformers opens as a fast one.

    Raises:
      DataError: there is none, it is damaged, or it has no padding token.
    """
    if not Path(folder).is_dir():
        raise DataError(f"{folder} is no directory; name one that holds a tokenizer")
    try:
        tokenizer, special_tokens = _open_saved(Path(folder)) or _open_with_transformers(Path(folder))
    except Exception as error:  # both libraries raise bare Exception
        raise DataError(
            f"{folder} cannot be read as a tokenizer: {_one_line(error)}; name a directory that holds one, such as "
            "what save_pretrained of transformers writes"
        ) from error
    try:
        return TextTokenizer(tokenizer, special_tokens)
    except DataError as error:
        raise DataError(f"{folder}: {error}") from error


def pretrained_tokenizer(name_or_folder: str) -> TextTokenizer:
    """Opens a directory as `load_tokenizer` does, or fetches a tokenizer from the Hugging Face hub by its name.

    What was fetched once is kept in the hub's cache and needs no network again.

    Raises:
      DataError: there is none, it is damaged, it has no padding token, or the hub cannot be reached.
    """
    if Path(name_or_folder).is_dir():
        return load_tokenizer(name_or_folder)
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(name_or_folder, allow_patterns=["*.json", "*.txt", "*.model", "*.tiktoken"])
    except Exception as error:  # of the network, the hub, or the name
        raise DataError(
            f"tokenizer {name_or_folder!r} is no directory, and the Hugging Face hub does not give it: "
            f"{_one_line(error)}; mend the name, or run `hf download {name_or_folder} --local-dir DIR` where there is "
            "a network and name DIR"
        ) from error
    return load_tokenizer(folder)


def encodable(text: str) -> str:
    """Lone surrogates cannot be handed to the library; they become question marks."""
    return text.encode("utf-8", "replace").decode()


def _open_saved(folder: Path) -> tuple[Tokenizer, dict[str, str]] | None:
    """What `TextTokenizer.save` wrote, without the seconds it takes to import transformers; None for anything else."""
    file, config_file = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not file.exists() or not config_file.exists():
        return None
    config = json.loads(config_file.read_text("utf-8"))
    if config.get("tokenizer_class") != _SAVED_CLASS:
        return None
    names = {name: token for name, token in config.items() if name.endswith("_token") and isinstance(token, str)}
    return Tokenizer.from_file(str(file)), names


def _open_with_transformers(folder: Path) -> tuple[Tokenizer, dict[str, str]]:
    # Code that comes with a model is never run.
    fast = _transformers().AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if not fast.is_fast:
        raise DataError(f"transformers opens it as {type(fast).__name__}, which has no fast form")
    return fast.backend_tokenizer, {name: str(token) for name, token in fast.special_tokens_map.items()}


def _transformers() -> Any:
    # On import transformers warns that there is no PyTorch, which nobody here needs.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    import transformers

    return transformers


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_length(max_tokens: int) -> None:
    if max_tokens < 3:
        raise DataError(f"max_tokens={max_tokens} leaves no room between the special tokens; use 3 or more")


def _cut(tokens: np.ndarray, max_tokens: int) -> np.ndarray:
    return tokens if len(tokens) <= max_tokens else np.concatenate([tokens[: max_tokens - 1], tokens[-1:]])


def _number_words(text: str, spans: Sequence[tuple[int, int]], special: Sequence[int]) -> list[int]:
    """Numbers the words that tokens belong to; a token that begins in the unit where the last one ended goes on."""
    unit_at: list[int] = []  # of each character; white space belongs to the unit behind it, as it does in tokens
    units = [unit for run in text_runs(text) for unit in run]
    for number, unit in enumerate(units):
        unit_at += [number] * (unit.end - len(unit_at))
    unit_at += [len(units) - 1] * (len(text) - len(unit_at))
    words, word, last = [], -1, -2
    for (start, end), is_special in zip(spans, special, strict=True):
        if is_special:
            words.append(-1)
            continue
        start = min(start, len(text) - 1)
        word += unit_at[start] != last
        last = unit_at[max(start, end - 1)]
        words.append(word)
    return words
