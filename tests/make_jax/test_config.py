"""Configs refuse what cannot work, and say both values and the remedy."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from make_jax.config import (
    DataConfig,
    Experiment,
    FusionConfig,
    ImageConfig,
    MeshConfig,
    ModelConfig,
    ObjectivesConfig,
    SideConfig,
    TextConfig,
    TrainingConfig,
    TransformerConfig,
)
from make_jax.errors import UserError
from make_jax.overrides import apply_overrides, from_dict, load_experiment, to_json, unknown_settings
from make_jax.sweeps.plan import load_sweep, plan_variants

BASE = Experiment("test")


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("training.steps=7", "training", "steps", 7),
        ("optimizer.learning_rate=3e-4", "optimizer", "learning_rate", 3e-4),
        ("optimizer.clip_norm=2", "optimizer", "clip_norm", 2.0),
        ("data.flip=true", "data", "flip", True),
        ("data.flip=No", "data", "flip", False),
        ("model.vocab_size=100", "model", "vocab_size", 100),
        ("model.vocab_size=none", "model", "vocab_size", None),
    ],
)
def test_override_sets_one_value_with_its_type(override: str, section: str, key: str, value: object) -> None:
    changed = apply_overrides(BASE, [override])
    found = getattr(getattr(changed, section), key)
    assert found == value
    assert type(found) is type(value)
    restored = dataclasses.replace(getattr(changed, section), **{key: getattr(getattr(BASE, section), key)})
    assert restored == getattr(BASE, section)


def test_override_reaches_nested_sections_and_names() -> None:
    changed = apply_overrides(BASE, ["model.image.transformer.layers=5", "model.image.stem=patch", "name=other"])
    assert (changed.model.image.transformer.layers, changed.model.image.stem, changed.name) == (5, "patch", "other")


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("training.stepz=7", ["training.stepz", "training.steps"]),
        ("trainin.steps=7", ["trainin", "training"]),
        ("training.steps=many", ["training.steps=many", "int"]),
        ("training.steps=1.5", ["training.steps=1.5", "int"]),
        ("data.flip=perhaps", ["data.flip=perhaps", "bool"]),
        ("model.image.stem=round", ["stem=round", "hierarchical"]),
        ("training=3", ["training", "section", "steps"]),
        ("training.steps.more=3", ["training.steps", "value"]),
        ("training.steps", ["key=value"]),
        ("training.steps=0", ["training.steps", "0", "at least 1"]),
        ("training.seed=4294967296", ["training.seed is 4294967296", "4294967295"]),
        (
            "model.query.transformer.heads=3",
            ["model.query.transformer.width 128 is not divisible by model.query.transformer.heads 3;"],
        ),
        ("model.title.transformer.dropout=1", ["model.title.transformer.dropout is 1.0"]),
        ("model.query.max_tokens=2", ["model.query.max_tokens is 2"]),
        ("model.image.patch=2", ["model.image.patch is 2", "model.image.stem=patch"]),
        ("model.image.height=81", ["model.image.height 81 is not divisible by model.image.patch 16; use 80"]),
        ("model.fusion.layers=-1", ["model.fusion.layers is -1"]),
        ("name=", ["name is empty"]),
    ],
)
def test_bad_overrides_are_refused_by_name(override: str, parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        apply_overrides(BASE, [override])
    for part in parts:
        assert part in str(error.value)


def test_overrides_that_need_each_other_are_applied_together() -> None:
    changed = apply_overrides(BASE, ["model.title.transformer.width=64", "model.image.transformer.width=64"])
    assert changed.model.title.transformer.width == changed.model.image.transformer.width == 64


@pytest.mark.parametrize(
    ("make", "values"),
    [
        (lambda: TransformerConfig(width=100, heads=3), [".width 100", ".heads 3"]),
        (lambda: ImageConfig(height=81, patch=16), ["81", "16"]),
        (lambda: ImageConfig(height=60, width=60, patch=12), ["12", "patch"]),
        (lambda: ModelConfig(title=TextConfig(transformer=TransformerConfig(width=64))), ["64", "128"]),
        (lambda: SideConfig(columns=("category", "brand", "category")), ["model.side.columns has 'category' twice"]),
        (lambda: SideConfig(buckets=0), ["model.side.buckets is 0", "at least 1 and below 2^31"]),
        (lambda: SideConfig(buckets=2**31), ["model.side.buckets is 2147483648"]),
        (lambda: SideConfig(dropout=1.0), ["model.side.dropout is 1.0"]),
        (lambda: ObjectivesConfig(qic=0), ["objectives.qic=1"]),
        (lambda: ObjectivesConfig(scale=200, scale_max=100), ["200", "100"]),
        (
            lambda: ObjectivesConfig(contrast="sigmoid", margin=0.2),
            ["margin is 0.2", "'sigmoid'", "set objectives.margin=0 or objectives.contrast=softmax"],
        ),
        (lambda: ObjectivesConfig(contrast="sigmoid", log_q=0.5), ["log_q is 0.5", "'sigmoid'", "log_q=0"]),
        (
            lambda: ObjectivesConfig(qic=0, query_title=1, memory_size=64),
            ["memory_size is 64", "qic is 0", "objectives.qic=1 or objectives.memory_size=0"],
        ),
        (lambda: ObjectivesConfig(qic=0, query_title=1, qim=0.5), ["qim is 0.5", "qic is 0", "objectives.qim=0"]),
        (
            lambda: ObjectivesConfig(qic=0, query_title=1, qim2=0.5),
            ["qim2 is 0.5", "objectives.qic and objectives.query_image are 0", "set objectives.query_image=1"],
        ),
        (lambda: ObjectivesConfig(mlm=-1), ["objectives.mlm is -1"]),
        (lambda: ObjectivesConfig(chunk_size=-1), ["objectives.chunk_size is -1", "at least 0"]),
        (lambda: TrainingConfig(microbatches=0), ["training.microbatches is 0", "at least 1"]),
        (
            lambda: TrainingConfig(batch_size=100, microbatches=8),
            ["training.batch_size 100", "training.microbatches 8", "training.batch_size=96"],
        ),
        (
            lambda: TrainingConfig(batch_size=96, microbatches=16).check_mesh(2, 2),
            ["training.microbatches 16 is 6 rows", "mesh.data 2 × mesh.fsdp 2 = 4", "use training.microbatches=12"],
        ),
        (lambda: ObjectivesConfig(log_q=1.5), ["objectives.log_q is 1.5"]),
        (lambda: ObjectivesConfig(matching_share=0.0), ["objectives.matching_share is 0.0"]),
        (lambda: ObjectivesConfig(patch_mask_share=1.1), ["objectives.patch_mask_share is 1.1"]),
        (lambda: ObjectivesConfig(matching_layers=0), ["objectives.matching_layers is 0"]),
        (
            lambda: Experiment(
                "x", objectives=ObjectivesConfig(memory_size=300), training=TrainingConfig(batch_size=128)
            ),
            ["objectives.memory_size 300", "training.batch_size 128", "use 256"],
        ),
        (
            lambda: Experiment(
                "x",
                model=ModelConfig(image=ImageConfig(height=16, width=16, patch=16)),
                objectives=ObjectivesConfig(mpm_r=1.0),
            ),
            ["objectives.mpm_r is 1.0", "1 patch", "model.image.patch"],
        ),
        (lambda: FusionConfig(modality_dropout=1.0), ["1.0"]),
        (
            lambda: Experiment("x", ModelConfig(modalities="title"), ObjectivesConfig(query_image=0.5)),
            ["objectives.query_image is 0.5", "model.modalities 'title'", "objectives.query_image=0"],
        ),
        (
            lambda: ModelConfig(shared_text=True, title=TextConfig(transformer=TransformerConfig(layers=3))),
            ["model.query.transformer.layers 2", "model.title.transformer.layers 3", "model.shared_text=false"],
        ),
        (lambda: MeshConfig(data=3).sizes(8), ["mesh.data 3", "8 devices", "set mesh.data=8"]),
        (lambda: MeshConfig(fsdp=3).sizes(8), ["mesh.fsdp 3 × mesh.tensor 1 = 3", "number of devices, which is 8"]),
        (lambda: MeshConfig(fsdp=4, tensor=4).sizes(8), ["mesh.fsdp 4 × mesh.tensor 4 = 16", "which is 8"]),
        (lambda: TrainingConfig(batch_size=100).check_mesh(8, 1), ["100", "8", "96"]),
        (lambda: ObjectivesConfig(keyword_mask="none", positives="many"), ["positives", "'many'", "keyword_mask"]),
        (lambda: ObjectivesConfig(qic=0, query_title=1, gate_supervision=0.5), ["gate_supervision is 0.5", "qic=1"]),
        (lambda: DataConfig(cold_share=0.4, pseudo_share=0.6), ["data.cold_share is 0.4", "data.pseudo_share 0.6"]),
        (lambda: DataConfig(query_drop=1.5), ["data.query_drop is 1.5", "[0, 1]"]),
        (
            lambda: Experiment(
                "x",
                model=ModelConfig(fusion=FusionConfig(kind="concat")),
                objectives=ObjectivesConfig(gate_supervision=0.5),
            ),
            ["gate_supervision is 0.5", "'concat'", "model.fusion.kind=modal_adaptation"],
        ),
        (lambda: Experiment(" "), ["name"]),
    ],
)
def test_impossible_combinations_name_both_values(make, values: list[str]) -> None:
    with pytest.raises(UserError) as error:
        make()
    for value in values:
        assert value in str(error.value)


@given(
    steps=st.integers(1, 10**9),
    rate=st.floats(1e-9, 10),
    flip=st.booleans(),
    layers=st.integers(0, 48),
    vocab=st.none() | st.integers(1, 10**6),
)
def test_json_round_trip(steps: int, rate: float, flip: bool, layers: int, vocab: int | None) -> None:
    experiment = apply_overrides(
        BASE,
        [
            f"training.steps={steps}",
            f"optimizer.learning_rate={rate!r}",
            f"data.flip={flip}",
            f"model.query.transformer.layers={layers}",
            f"model.vocab_size={vocab}",
        ],
    )
    assert from_dict(json.loads(to_json(experiment))) == experiment


def test_stored_json_is_checked_as_strictly() -> None:
    tree = dataclasses.asdict(BASE)
    tree["training"]["steps"] = "10"
    with pytest.raises(UserError, match=r"training\.steps='10'"):
        from_dict(tree)
    tree = dataclasses.asdict(BASE)
    tree["model"]["imag"] = {}
    with pytest.raises(UserError, match=r"model\.imag: .*model\.image"):
        from_dict(tree)
    with pytest.raises(UserError, match="expected a section"):
        from_dict(dataclasses.asdict(BASE) | {"training": 3})


@pytest.mark.parametrize("path", [["training"], ["training", "seed"], ["model", "query", "transformer", "heads"]])
def test_what_stored_json_lacks_is_at_its_default(path: list[str]) -> None:
    tree = json.loads(to_json(apply_overrides(BASE, ["training.steps=7", "model.query.transformer.layers=5"])))
    section = tree
    for name in path[:-1]:
        section = section[name]
    section.pop(path[-1])
    found = from_dict(tree)
    assert (found.training.seed, found.model.query.transformer.heads) == (0, 4)
    assert found.training.steps == (1000 if path == ["training"] else 7)
    assert found.model.query.transformer.layers == 5


def test_what_has_no_default_has_to_be_stored() -> None:
    with pytest.raises(UserError, match=r"^name: missing"):
        from_dict({"training": {}})


def test_unknown_settings_are_all_found() -> None:
    tree = dataclasses.asdict(BASE) | {"sparkle": {"much": 1}}
    tree["model"]["query"]["colour"] = 1
    assert sorted(unknown_settings(tree)) == ["model.query.colour", "sparkle"]
    assert unknown_settings(dataclasses.asdict(BASE) | {"training": 3}) == []


def test_only_the_training_batch_is_shared_out() -> None:
    TrainingConfig(batch_size=16, eval_batch_size=9).check_mesh(8, 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(): return 3", "int"),
        ("x = 1", "AttributeError"),
        ("1 / 0", "ZeroDivisionError"),
        ("def get_config(:", "SyntaxError"),
        (
            "from make_jax.config import *\ndef get_config(): return Experiment('x', mesh=MeshConfig(fsdp=0))",
            "mesh.fsdp",
        ),
    ],
)
def test_broken_experiment_files_are_named(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(content)
    with pytest.raises(UserError) as error:
        load_experiment(file)
    assert str(file) in str(error.value)
    assert message in str(error.value)


def test_missing_experiment_file() -> None:
    with pytest.raises(UserError, match="no such experiment"):
        load_experiment("nowhere.py")


@pytest.mark.parametrize(
    "file", sorted((Path(__file__).parents[2] / "experiments").glob("[!_]*.py")), ids=lambda f: f.stem
)
def test_every_experiment_loads_and_says_how_to_run_it(file: Path) -> None:
    assert "make-jax" in file.read_text().splitlines()[0]
    if file.stem.endswith("sweep"):
        assert "make-jax sweep" in file.read_text().splitlines()[0]
        assert plan_variants(load_sweep(file), ())
    else:
        assert load_experiment(file).name
