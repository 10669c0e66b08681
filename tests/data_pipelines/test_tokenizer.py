"""The tokenizer: many scripts, fixed special ids, the same bytes every time, and what transformers makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipelines.errors import DataError
from data_pipelines.tokenizer import TextTokenizer, load_tokenizer
from data_pipelines.tokenizer_training import CLS, MASK, PAD, SEP, UNK, TokenizerKind, train_tokenizer

TEXTS = [
    *[
        f"{colour} {kind} for {who}"
        for colour in ("red", "blue")
        for kind in ("shirt", "dress")
        for who in ("men", "women")
    ],
    "Café T-Shirt 100% cotton",
    "红色连衣裙 夏季新款",
    "黑色鞋",
    "लाल कमीज़ पुरुषों के लिए",
    "قميص أحمر للرجال",
    "赤いTシャツ",
]
KINDS: list[TokenizerKind] = ["wordpiece", "unigram"]


@pytest.fixture(scope="module", params=KINDS)
def tokenizer(request: pytest.FixtureRequest) -> TextTokenizer:
    return train_tokenizer(TEXTS, 400, request.param)


@pytest.mark.parametrize(
    "text",
    [
        "red dress for men",
        "红色连衣裙",
        "लाल कमीज़ के लिए",
        "قميص أحمر",
        "café قميص 红",
        "赤いtシャツ",
        "dressed red men",  # words not in the texts, made of pieces that are
    ],
)
def test_texts_survive_encoding(tokenizer: TextTokenizer, text: str) -> None:
    ids = tokenizer.encode([text], 64)[0]
    assert (ids[0], ids[-1]) == (CLS, SEP)
    assert UNK not in ids
    assert tokenizer.decode(ids).replace(" ", "") == text.replace(" ", "")


def test_case_and_width_do_not_matter(tokenizer: TextTokenizer) -> None:
    variants = tokenizer.encode(["red shirt", "RED Shirt", "ｒｅｄ　ｓｈｉｒｔ", " red\n shirt "], 16)
    for ids in variants[1:]:
        np.testing.assert_array_equal(ids, variants[0])
    accented, plain = tokenizer.encode(["café", "cafe"], 16)
    assert not np.array_equal(accented, plain)


def test_characters_met_once_are_tokens_and_unmet_scripts_are_unknown(tokenizer: TextTokenizer) -> None:
    met, unmet = tokenizer.encode(["鞋", "ხელნაკეთი 😀"], 16)
    assert UNK not in met
    assert UNK in unmet


def test_special_names_in_texts_are_text(tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode(["[PAD] [MASK] [SEP] red"], 64)[0]
    assert not set(ids[1:-1].tolist()) & {PAD, MASK, CLS, SEP}


def test_long_texts_keep_their_end_mark(tokenizer: TextTokenizer) -> None:
    whole, cut = tokenizer.encode(["red shirt blue dress"], 64)[0], tokenizer.encode(["red shirt blue dress"], 4)[0]
    np.testing.assert_array_equal(cut, [*whole[:3], SEP])


def test_padding_and_empty_texts(tokenizer: TextTokenizer) -> None:
    padded = tokenizer.encode_padded(["red", "", " \n", "红" * 50], 6)
    assert padded.shape == (4, 6)
    assert padded.dtype == np.int32
    red = tokenizer.encode(["red"], 6)[0]
    np.testing.assert_array_equal(padded[0], [*red, *[PAD] * (6 - len(red))])
    assert not padded[1:3].any()
    assert padded[3, -1] == SEP
    assert tokenizer.encode([], 8) == []


@given(texts=st.lists(st.text(), max_size=4), length=st.integers(3, 12))
def test_any_text_can_be_encoded(tokenizer: TextTokenizer, texts: list[str], length: int) -> None:
    for text, ids in zip(texts, tokenizer.encode(texts, length), strict=True):
        assert ids.dtype == np.int32
        assert len(ids) <= length
        assert ids.size == 0 or (ids.min() >= 0 and ids.max() < tokenizer.vocab_size)
        assert bool(len(ids)) == bool(text.strip())
        assert PAD not in ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], [""], ["\ud800"]])
def test_hardly_any_text_to_learn_from(kind: TokenizerKind, texts: list[str]) -> None:
    tokenizer = train_tokenizer(texts, 100, kind)
    assert tokenizer.vocab_size >= 5
    assert tokenizer.encode(["never seen"], 8)[0][[0, -1]].tolist() == [CLS, SEP]


@pytest.mark.parametrize("kind", KINDS)
def test_training_is_deterministic_to_the_byte(tmp_path: Path, kind: TokenizerKind) -> None:
    words = np.random.default_rng(0).choice(list("abcdefgh红绿кл"), (400, 6))
    texts = [f"{''.join(row[:3])} {''.join(row[3:])}" for row in words]
    folders = [tmp_path / str(i) for i in range(3)]
    for folder in folders:
        train_tokenizer(texts, 200, kind).save(folder)
    names = sorted(path.name for path in folders[0].iterdir())
    assert "tokenizer.json" in names
    for name in names:
        assert len({(folder / name).read_bytes() for folder in folders}) == 1


def test_the_vocabulary_is_bounded_and_frequent_characters_come_first() -> None:
    texts = ["".join(chr(0x4E00 + i) for i in range(300)), *["一丁七"] * 9]
    tokenizer = train_tokenizer(texts, 64)
    assert tokenizer.vocab_size == 64
    assert UNK not in tokenizer.encode(["一丁七"], 9)[0]


def test_saved_tokenizers_load_here_and_in_transformers(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer.save(tmp_path)
    ours, theirs = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    special = (theirs.pad_token_id, theirs.unk_token_id, theirs.cls_token_id, theirs.sep_token_id, theirs.mask_token_id)
    assert special == (PAD, UNK, CLS, SEP, MASK)
    assert len(theirs) == ours.vocab_size == tokenizer.vocab_size
    for text in [*TEXTS, "never seen ხელ"]:
        expected = tokenizer.encode([text], 512)[0].tolist()
        assert ours.encode([text], 512)[0].tolist() == expected
        assert theirs(text)["input_ids"] == expected


def test_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent is no directory"):
        load_tokenizer(tmp_path / "absent")
    with pytest.raises(DataError, match="cannot be read as a tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as a tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(DataError, match="vocab_size=10 is too small"):
        train_tokenizer(TEXTS, 10)
    with pytest.raises(DataError, match="'bpe' is unknown"):
        train_tokenizer(TEXTS, 100, "bpe")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="max_tokens=2"):
        train_tokenizer(TEXTS, 100).encode(["a"], 2)
