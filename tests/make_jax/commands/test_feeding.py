"""What a command makes of `--data` and of an experiment's settings, and what it refuses before it writes anything."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tokenizers import Tokenizer, models

from data_pipelines.augmentation import NO_AUGMENT, AugmentSpec
from data_pipelines.cache import CachedData, open_cache
from data_pipelines.dataset import PreparedData
from data_pipelines.errors import DataError
from data_pipelines.feed_settings import BatchShape, FeedOptions, Sampling
from data_pipelines.mixture import MixedData
from data_pipelines.plans import TrainPlans
from data_pipelines.query_arrays import QueryMasking, QueryOutput
from data_pipelines.query_variation import QueryVariation
from data_pipelines.side_ids import SideColumns
from data_pipelines.title_arrays import TitleOutput
from data_pipelines.tokenizer import TextTokenizer
from make_jax.cli import main
from make_jax.commands import feeding
from make_jax.commands.train import train_run
from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.overrides import apply_overrides

TINY = Path(__file__).parents[3] / "experiments" / "tiny.py"
SMALL = ("model.image.height=32", "model.image.width=32", "model.image.max_images=1")


def experiment(*overrides: str) -> Experiment:
    return apply_overrides(Experiment(name="test"), overrides)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refused(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("make-jax: error: ")]
    for part in parts:
        assert part in line


@pytest.fixture(scope="module")
def cache(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cache") / "CACHE"
    result = call("data", "cache", tiny_data, "--out", out, *(part for setting in SMALL for part in ("--set", setting)))
    assert result.exit_code == 0, result.output
    assert f"{out}: 200 products, 1 x (32, 32) pixels each" in result.output
    return out


def test_one_directory_is_opened_as_what_it_is(tiny_data: Path, cache: Path) -> None:
    for path, kind in ((tiny_data, PreparedData), (cache, CachedData)):
        data, paths = feeding.open_training_data([str(path)])
        assert isinstance(data, kind)
        assert paths == [str(path)]


def test_several_are_mixed_by_weight(tiny_data: Path) -> None:
    data, paths = feeding.open_training_data([f"{tiny_data}=3", f"{tiny_data}=1.5"])
    assert isinstance(data, MixedData)
    assert paths == [str(tiny_data)] * 2
    assert data.shares.tolist() == [2 / 3, 1 / 3]
    assert data.num_products == 400
    alike, _ = feeding.open_training_data([str(tiny_data)] * 2)
    assert isinstance(alike, MixedData)
    assert alike.shares.tolist() == [0.5, 0.5]


def test_a_weight_of_one_directory_alone_says_nothing(tiny_data: Path) -> None:
    data, paths = feeding.open_training_data([f"{tiny_data}=3"])
    assert isinstance(data, PreparedData)
    assert paths == [str(tiny_data)]


def test_a_directory_may_be_named_like_a_weight(tiny_data: Path, tmp_path: Path) -> None:
    odd = tmp_path / "data=2"
    odd.symlink_to(tiny_data)
    data, paths = feeding.open_training_data([str(odd)])
    assert (data.num_products, paths) == (200, [str(odd)])


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        (["{data}=1", "{data}"], UserError, r"--data {data} has no weight, but others have; write {data}=1"),
        (["{data}=1", "{data}=0"], DataError, r"2 data sets cannot be mixed with weights \[1.0, 0.0\]"),
        (["{data}", "{cache}"], DataError, r"{cache}/manifest.json says 'make_jax-cache'"),
        (["{data}-none"], DataError, r"{data}-none is not a directory"),
    ],
)
def test_choices_that_cannot_be(
    tiny_data: Path, cache: Path, choices: list[str], error: type[Exception], message: str
) -> None:
    places = {"data": str(tiny_data), "cache": str(cache)}
    with pytest.raises(error, match=message.format(**{name: re.escape(path) for name, path in places.items()})):
        feeding.open_training_data([choice.format(**places) for choice in choices])


def test_every_setting_reaches_the_pipeline() -> None:
    chosen = experiment(
        "model.query.max_tokens=7",
        "model.title.max_tokens=9",
        *("model.image.height=32", "model.image.width=48", "model.image.max_images=3"),
        *("training.batch_size=24", "training.seed=11"),
        *("data.popularity_power=0.5", "data.purchase_weight=3", "data.recency_half_life=30", "data.cold_share=0.1"),
        *("data.product_queries=5", "data.length_multiple=8"),
        *("data.crop=0.7", "data.aspect=1.2", "data.flip=true", "data.brightness=0.1", "data.contrast=0.2"),
        *("data.saturation=0.3", "data.hue=0.05"),
        *("data.prefetch=6", "data.max_bad_share=0.02", "data.stall_seconds=60"),
    )
    assert feeding.batch_shape(chosen) == BatchShape(7, 9, (32, 48), num_images=3, length_multiple=8)
    assert feeding.sampling(chosen) == Sampling(
        24, 11, popularity_power=0.5, purchase_weight=3.0, recency_half_life=30.0, cold_share=0.1, max_product_queries=5
    )
    assert feeding.augmentation(chosen) == AugmentSpec(0.7, 1.2, True, 0.1, 0.2, 0.3, 0.05)
    assert feeding.feed_options(chosen) == FeedOptions(prefetch=6, max_bad_share=0.02, stall_seconds=60.0)
    regions = experiment("model.image.stem=regions", "model.image.max_regions=20")
    assert feeding.batch_shape(regions) == BatchShape(16, 32, (80, 64), num_images=0, num_regions=20)
    assert feeding.augmentation(experiment()) == NO_AUGMENT
    side = experiment("model.side.columns=category,product_id", "model.side.buckets=99")
    assert feeding.batch_shape(side).side == SideColumns(("category", "product_id"), 99)


def test_the_settings_of_the_data_section_are_all_used(tiny_data: Path) -> None:
    """Each changes what one of the functions gives."""
    data, _ = feeding.open_training_data([str(tiny_data)])
    makers: list[Callable[[Experiment], Any]] = [
        feeding.batch_shape,
        feeding.sampling,
        feeding.augmentation,
        feeding.feed_options,
        lambda changed: (found := feeding.text_outputs(changed, data)[1]) and found.variation,
    ]
    plain = experiment("objectives.keyword_mask=words")  # or nobody asks for product_words
    for field in dataclasses.fields(plain.data):
        value = {"crop": 0.5, "aspect": 1.5, "flip": True, "recency_half_life": 9.0}.get(field.name)
        if value is None:
            default = getattr(plain.data, field.name)
            value = default + 1 if isinstance(default, int) else default / 2 + 0.01
        changed = dataclasses.replace(plain, data=dataclasses.replace(plain.data, **{field.name: value}))
        assert [make(changed) for make in makers] != [make(plain) for make in makers], field.name


def test_words_are_hidden_for_mlm_only(tiny_data: Path) -> None:
    data, _ = feeding.open_training_data([str(tiny_data)])
    assert feeding.text_outputs(experiment(), data) == (TitleOutput(), None)
    titles, queries = feeding.text_outputs(experiment("objectives.mlm=0.5", "objectives.mask_share=0.2"), data)
    assert (titles.mask_share, titles.tokenizer is None, titles.spans) == (0.2, False, False)
    assert isinstance(queries, QueryOutput)
    assert isinstance(queries.masking, QueryMasking)
    assert (queries.variation, queries.word_keys) == (None, None)


def test_titles_and_queries_have_word_keys_for_the_mask_by_title_only(tiny_data: Path) -> None:
    data, _ = feeding.open_training_data([str(tiny_data)])
    titles, queries = feeding.text_outputs(experiment("objectives.keyword_mask=title"), data)
    assert (titles.mask_share, titles.word_keys) == (0, True)
    assert isinstance(queries, QueryOutput)
    assert (queries.variation, queries.masking, queries.word_keys is None) == (None, None, False)
    assert feeding.sampling(experiment("objectives.keyword_mask=title")).max_product_words == 0


def test_products_have_the_words_of_their_queries_for_the_mask_by_words(tiny_data: Path) -> None:
    data, _ = feeding.open_training_data([str(tiny_data)])
    asked = experiment("objectives.keyword_mask=words", "data.product_words=7")
    titles, queries = feeding.text_outputs(asked, data)
    assert titles.word_keys
    assert feeding.sampling(asked).max_product_words == 7
    plan = TrainPlans(data, feeding.sampling(asked), feeding.batch_shape(asked), 0, 1, queries)(0)
    words = plan.arrays["product_word_keys"]
    assert words.shape == (asked.training.batch_size, 7)
    # A product's words are, among others, those of the query that it is shown with.
    for shown, known in zip(plan.arrays["query_word_keys"], words, strict=True):
        assert known.all() or set(shown[shown > 0]) <= set(known)


def test_queries_are_varied_where_asked_for(tiny_data: Path) -> None:
    data, _ = feeding.open_training_data([str(tiny_data)])
    titles, queries = feeding.text_outputs(experiment("data.query_drop=0.1", "data.query_shuffle=0.2"), data)
    assert (titles.mask_share, titles.word_keys) == (0, False)
    assert isinstance(queries, QueryOutput)
    assert (queries.variation, queries.masking, queries.word_keys) == (QueryVariation(0.1, 0.2), None, None)


def test_a_tokenizer_without_a_mask_token_is_refused_for_mlm(tiny_data: Path, tmp_path: Path) -> None:
    class Unmasked:
        """The data, but with a tokenizer that knows no mask token."""

        path, tokenizer_path = "DATA", tmp_path / "tokenizer"

    library = Tokenizer(models.WordLevel({"[PAD]": 0, "red": 1}, "[PAD]"))
    TextTokenizer(library, {"pad_token": "[PAD]"}).save(Unmasked.tokenizer_path)
    with pytest.raises(UserError, match=r"objectives\.mlm is 0\.5, but the tokenizer of DATA has no mask token; set"):
        feeding.text_outputs(experiment("objectives.mlm=0.5"), Unmasked())


def test_the_kind_of_picture_has_to_fit(tiny_data: Path, tmp_path: Path) -> None:
    wrong = ("--set", "model.image.stem=regions")
    message = "has pictures, but model.image.stem is 'regions'; set model.image.stem=hierarchical"
    refused(call("train", TINY, "--data", tiny_data, "--workdir", tmp_path / "run", *wrong), str(tiny_data), message)
    refused(call("data", "cache", tiny_data, "--out", tmp_path / "cache", *wrong), str(tiny_data), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((*SMALL, "data.crop=0.8"), "cannot be varied"),
        (("model.image.height=64", "model.image.width=32"), r"1 of \(64, 32\) are asked for"),
        ((*SMALL, "model.image.max_images=2"), r"2 of \(32, 32\) are asked for"),
    ],
)
def test_what_a_cache_cannot_give_is_refused_before_there_is_a_run(
    cache: Path, tmp_path: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        train_run(
            experiment("model.image.max_images=1", "training.batch_size=16", *overrides), [str(cache)], tmp_path / "run"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_mixture_without_clicks_in_one_part_is_refused_before_there_is_a_run(
    tiny_data: Path, tiny_tables: Any, tmp_path: Path
) -> None:
    quiet = tmp_path / "quiet"
    made = call("prepare", "--products", tiny_tables.products, "--out", quiet, "--tokenizer", tiny_data / "tokenizer")
    assert made.exit_code == 0, made.output
    choices = [f"{tiny_data}=1", f"{quiet}=1"]
    with pytest.raises(DataError, match=f"{quiet} has no clicks to draw; leave it out of the mixture"):
        train_run(experiment("training.batch_size=16"), choices, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_cache_goes_beside_the_data_unless_told_otherwise(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_data.rglob("*"):
        if path.is_file():
            (copy / path.relative_to(tiny_data)).parent.mkdir(exist_ok=True)
            (copy / path.relative_to(tiny_data)).write_bytes(path.read_bytes())
    monkeypatch.chdir(copy)
    small = [part for setting in SMALL for part in ("--set", setting)]
    result = call("data", "cache", ".", *small)
    assert result.exit_code == 0, (result.output, result.exception)
    assert open_cache(tmp_path / "copy-cache").num_products == 200
    refused(call("data", "cache", "gs://bucket/data", *small), "gs://bucket/data is not on this machine", "--out")


def test_a_cache_takes_its_sizes_from_an_experiment(tiny_data: Path, tmp_path: Path) -> None:
    result = call("data", "cache", tiny_data, "--out", tmp_path / "cache", "--experiment", TINY)
    assert result.exit_code == 0, result.output
    cached = open_cache(tmp_path / "cache")
    assert (cached.image_size, cached.image.shape[1]) == ((32, 32), 1)
