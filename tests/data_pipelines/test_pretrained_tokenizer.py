"""Pretrained tokenizers of every common kind: the same ids as transformers gives, before and after saving."""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from data_pipelines.errors import DataError
from data_pipelines.tokenizer import TextTokenizer, load_tokenizer, pretrained_tokenizer

TEXTS = [
    "Red T-Shirt for Men, 100% cotton",
    "Café crème  naïve\tÜber",
    "红色连衣裙 夏季新款 T恤",
    "赤いTシャツ メンズ",
    "लाल कमीज़ पुरुषों के लिए",
    "قميص أحمر للرجال",
    "mixed 红 and русский 😀 ™ ½",
    "x",
    "a very long title " * 8,
]


def trained(tokenizer: Tokenizer, trainer: Any) -> Tokenizer:
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def bert() -> tuple[Tokenizer, dict[str, Any]]:
    special = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    }
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    trained(
        tokenizer, trainers.WordPieceTrainer(vocab_size=300, special_tokens=[*special.values()], show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer, special


ROBERTA = {
    "bos_token": "<s>",
    "pad_token": "<pad>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
}


def roberta() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    mask = AddedToken("<mask>", lstrip=True, special=True)
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", mask],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    trained(tokenizer, trainer).post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer, {**ROBERTA, "mask_token": mask}


def xlm_roberta() -> tuple[Tokenizer, dict[str, Any]]:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False)
    trained(tokenizer, trainer).post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> </s> $B </s>", [("<s>", 0), ("</s>", 2)]
    )
    return tokenizer, {**ROBERTA, "mask_token": "<mask>"}


def clip() -> tuple[Tokenizer, dict[str, Any]]:
    start, end = "<|startoftext|>", "<|endoftext|>"
    tokenizer = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="</w>", unk_token=end))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=[start, end],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    trained(tokenizer, trainer).post_processor = processors.RobertaProcessing(
        (end, 1), (start, 0), trim_offsets=False, add_prefix_space=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, {"bos_token": start, "eos_token": end, "unk_token": end, "pad_token": end}


KINDS: dict[str, tuple[Callable[[], tuple[Tokenizer, dict[str, Any]]], int, int | None]] = {
    "bert": (bert, 0, 4),
    "roberta": (roberta, 1, 4),
    "xlm_roberta": (xlm_roberta, 1, 4),
    "clip": (clip, 1, None),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp(kind)
    tokenizer, special = KINDS[kind][0]()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> TextTokenizer:
    return load_tokenizer(folder)


def reference(folder: Path, max_tokens: int) -> list[list[int]]:
    theirs = AutoTokenizer.from_pretrained(folder)
    return theirs(TEXTS, padding="max_length", truncation=True, max_length=max_tokens)["input_ids"]


@pytest.mark.parametrize("max_tokens", [3, 12, 64])
def test_ids_and_padding_are_those_of_transformers(folder: Path, tokenizer: TextTokenizer, max_tokens: int) -> None:
    assert tokenizer.encode_padded(TEXTS, max_tokens).tolist() == reference(folder, max_tokens)


def test_special_ids(kind: str, tokenizer: TextTokenizer, folder: Path) -> None:
    theirs = AutoTokenizer.from_pretrained(folder)
    _, pad_id, mask_id = KINDS[kind]
    assert (tokenizer.pad_id, tokenizer.mask_id) == (pad_id, mask_id)
    assert (tokenizer.pad_id, tokenizer.mask_id) == (theirs.pad_token_id, theirs.mask_token_id)
    assert tokenizer.unk_id == theirs.unk_token_id
    assert tokenizer.special_ids == sorted(theirs.all_special_ids)
    assert tokenizer.vocab_size == len(theirs)
    assert (tokenizer.encode_padded([" "], 4) == pad_id).all()


def test_saving_changes_nothing(folder: Path, tokenizer: TextTokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    expected = reference(folder, 40)
    again = load_tokenizer(tmp_path)
    assert again.encode_padded(TEXTS, 40).tolist() == expected
    assert (again.pad_id, again.mask_id, again.unk_id) == (tokenizer.pad_id, tokenizer.mask_id, tokenizer.unk_id)
    assert again.special_ids == tokenizer.special_ids
    assert reference(tmp_path, 40) == expected


def test_special_names_in_texts_are_text(tokenizer: TextTokenizer) -> None:
    names = "[PAD] [MASK] <pad> <mask> </s> <|endoftext|>"
    inner = tokenizer.encode([names], 200)[0][1:-1]
    assert not set(inner.tolist()) & set(tokenizer.special_ids) - {tokenizer.unk_id}


def test_words_are_those_of_the_text(kind: str, tokenizer: TextTokenizer) -> None:
    """Each token belongs to the word it is written in, whatever the tokenizer itself calls a word."""
    text = " T-shirt 红色连衣裙 ok"
    (tokens,) = tokenizer.encode_words([text], 64)
    np.testing.assert_array_equal(tokens.ids, tokenizer.encode([text], 64)[0])
    assert tokens.words[[0, -1]].tolist() == [-1, -1]
    spans = tokens.spans[1:-1].tolist()
    places: dict[int, set[int]] = {}
    for word, (start, end) in zip(tokens.words[1:-1].tolist(), spans, strict=True):
        places.setdefault(word, set()).update(place for place in range(start, end) if text[place] != " ")
    assert list(places) == list(range(len(places)))
    assert sum(map(len, places.values())) == len(text.replace(" ", "")), "words do not overlap"
    parts = ["".join(text[place] for place in sorted(word)) for word in places.values()]
    assert "".join(parts) == text.replace(" ", "")
    assert [part for part in parts if part.isascii()] == ["T", "-", "shirt", "ok"]
    first = text.index("红")
    shared = [any(start <= at and at + 1 < end for start, end in spans) for at in range(first, first + 4)]
    assert len(parts) == 4 + 5 - sum(shared), "characters are words of their own unless a token holds two"


def test_words_are_cut_like_ids(tokenizer: TextTokenizer) -> None:
    for cut, whole in zip(tokenizer.encode_words(TEXTS, 7), tokenizer.encode_words(TEXTS, 500), strict=True):
        assert len(cut.ids) == len(cut.words) == len(cut.spans) == min(7, len(whole.ids))
        np.testing.assert_array_equal(cut.words[:-1], whole.words[: len(cut.words) - 1])
        assert cut.words[-1] == -1
        assert cut.ids[-1] == whole.ids[-1]


def test_a_vocabulary_alone_is_enough(tmp_path: Path) -> None:
    tokenizer, _ = bert()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token, _ in vocabulary), "utf-8")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert load_tokenizer(tmp_path).encode_padded(TEXTS, 32).tolist() == reference(tmp_path, 32)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": false}')
    ours = pretrained_tokenizer(str(tmp_path))
    assert ours.encode_padded(TEXTS, 32).tolist() == reference(tmp_path, 32)
    ours.save(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").encode_padded(TEXTS, 32).tolist() == reference(tmp_path, 32)


def encode_elsewhere(tokenizer: TextTokenizer) -> list[int]:
    return tokenizer.encode(["[PAD] red"], 9)[0].tolist()


def test_other_processes_encode_alike() -> None:
    tokenizer = TextTokenizer(*bert())
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(encode_elsewhere, (tokenizer,)) == encode_elsewhere(tokenizer)


def test_no_padding_token(tmp_path: Path) -> None:
    tokenizer, special = clip()
    del special["pad_token"]
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(tmp_path)
    with pytest.raises(DataError, match=rf'{tmp_path}: the tokenizer has no padding token.*"pad_token"'):
        load_tokenizer(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"pad_token": "<|endoftext|>"}))
    assert load_tokenizer(tmp_path).pad_id == 1


def test_clear_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"tokenizer 'nobody/nothing' is no directory, .*hf download nobody/nothing"):
        pretrained_tokenizer("nobody/nothing")
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(DataError, match=f"{tmp_path} cannot be read as a tokenizer"):
        pretrained_tokenizer(str(tmp_path))
