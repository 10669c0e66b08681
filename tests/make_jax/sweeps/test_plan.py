"""What a sweep file says becomes runs, or is refused before any begins."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments import tiny, tiny_sweep
from make_jax.errors import UserError
from make_jax.overrides import apply_overrides, load_experiment, to_json
from make_jax.sweeps import Search, Sweep, choice, log_uniform
from make_jax.sweeps.folders import variant_folder
from make_jax.sweeps.plan import load_sweep, plan_variants, select_runs


def sweep(variants: Any = (), **more: Any) -> Sweep:
    return Sweep("s", tiny.get_config(), variants, **more)


def test_variants_come_as_changes_lists_of_changes_or_whole_experiments() -> None:
    other = apply_overrides(tiny.get_config(), ["name=other", "training.batch_size=8"])
    variants = {
        "dict": {"data.flip": True},
        "list": ["model.fusion.kind=mean", "data.recency_half_life=none"],
        "whole": other,
    }
    a, b, c = plan_variants(sweep(variants), ["training.steps=7"])
    assert a.experiment.data.flip
    assert (b.experiment.model.fusion.kind, b.experiment.data.recency_half_life) == ("mean", None)
    assert b.changes == {"model.fusion.kind": "mean", "data.recency_half_life": "none"}
    assert (c.experiment.training.batch_size, c.experiment.name, c.changes) == (8, "other", {})
    assert {v.experiment.training.steps for v in (a, b, c)} == {7}
    unnamed = plan_variants(sweep([{}, {"model.fusion.kind": "mean"}, other]), ())
    assert [variant.name for variant in unnamed] == ["base", "kind=mean", "other"]


@pytest.mark.parametrize(
    ("variants", "sets", "parts"),
    [
        ({"bad": {"model.fusion.kidn": "mean"}}, [], ["variant bad", "model.fusion.kidn", "did you mean"]),
        ({"bad": {"training.batch_size": 1.5}}, [], ["variant bad", "training.batch_size=1.5", "int"]),
        ({"bad": {"optimizer.learning_rate": -1}}, [], ["variant bad", "optimizer.learning_rate", "above 0"]),
        ({"bad": {"training.seed": 3}}, [], ["variant bad", "training.seed", "--seeds"]),
        ({"bad": {"data.crop": 0.5}}, ["data.crop=0.7"], ["variant bad", "data.crop", "0.5", "0.7"]),
        ({"good": {}}, ["training.seed=1"], ["training.seed", "--seeds"]),
        ({"a/b": {}}, [], ["a/b", "no /"]),
        ({"bad": ["data.crop"]}, [], ["variant bad", "key=value"]),
        ([{}, {}], [], ["base 2 times"]),
    ],
)  # fmt: skip
def test_a_bad_variant_is_named_with_its_key(variants: Any, sets: list[str], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        plan_variants(sweep(variants), sets)
    for part in parts:
        assert part in str(error.value)


def test_a_search_is_checked_at_its_ends() -> None:
    for space, part in (
        ({"optimizer.lerning_rate": log_uniform(1e-4, 1e-2)}, "did you mean optimizer.learning_rate"),
        ({"model.fusion.kind": choice("mean", "sum")}, "model.fusion.kind=sum"),
    ):
        with pytest.raises(UserError, match=part):
            plan_variants(sweep(search=Search(space)), ())


def test_sweeps_that_make_no_sense_are_refused() -> None:
    for make in (
        lambda: Sweep(" ", variants={"a": tiny.get_config()}), lambda: Sweep("s"),
        lambda: sweep({"a": {}}, minutes=0.0),
        lambda: sweep({"a": {}}, seeds=(1, 1)), lambda: sweep({"a": {}}, seeds=0), lambda: sweep({"a": {}}, seeds=[-1]),
        lambda: Sweep("s", search=Search({"data.crop": choice(1.0)})), lambda: Search({}),
        lambda: Search({"data.crop": choice(1.0)}, trials=0),
        lambda: plan_variants(Sweep("s", variants={"a": {}}), ()),
    ):  # fmt: skip
        with pytest.raises(UserError):
            make()


def test_equal_variants_are_pointed_out(caplog: pytest.LogCaptureFixture) -> None:
    plan_variants(sweep({"a": {}, "b": {"data.crop": tiny.get_config().data.crop}}), ())
    assert "variants a and b are the same experiment" in caplog.text


def test_every_seed_of_every_variant_first_seeds_first() -> None:
    planned = select_runs(plan_variants(sweep({"a": {}, "[b]": {"data.flip": True}}, seeds=(3, 5)), ()), (3, 5), ())
    assert [run.name for run in planned] == ["a/seed-3", "[b]/seed-3", "a/seed-5", "[b]/seed-5"]
    assert planned[1].experiment().training.seed == 3
    assert planned[1].experiment(9).training.steps == 9
    variants = [run.variant for run in planned[:2]]
    assert [run.name for run in select_runs(variants, (3, 5), ("[b]",))] == ["[b]/seed-3", "[b]/seed-5"]
    assert [run.name for run in select_runs(variants, (3, 5), ("*/seed-5", "a"))] == [
        "a/seed-3", "a/seed-5", "[b]/seed-5"
    ]  # fmt: skip


def test_names_become_safe_folders_of_their_own(tmp_path: Path) -> None:
    names = ["plain-1.5", "a b", "a_b", "ä", "..", ".x", "x" * 200, "x" * 201, "a:b", "CON."]
    folders = [variant_folder(tmp_path, name) for name in names]
    assert len(set(folders)) == len(names)
    assert folders[0].name == "plain-1.5"
    for folder in folders:
        assert folder.parent == tmp_path / "runs"
        assert len(folder.name) < 100
        assert not folder.name.startswith(".")


def test_sweep_files_are_loaded_or_refused(tmp_path: Path) -> None:
    file = Path(tiny_sweep.__file__)
    assert load_sweep(file) == tiny_sweep.get_sweep()
    changed = load_sweep(file, seeds=5, minutes=2.0)
    assert (changed.seed_list, changed.minutes) == ((0, 1, 2, 3, 4), 2.0)
    for content, part in (
        ("def get_config(): pass", "get_sweep"),
        ("def get_sweep(): return 1", r"must return make_jax\.sweeps\.sweep\.Sweep"),
        ("1 / 0", "the sweep fails with ZeroDivisionError"),
    ):  # fmt: skip
        (tmp_path / "s.py").write_text(content)
        with pytest.raises(UserError, match=part):
            load_sweep(tmp_path / "s.py")
    with pytest.raises(UserError, match="no such sweep file"):
        load_sweep(tmp_path / "none.py")


def test_a_stored_experiment_can_be_trained_again(tmp_path: Path) -> None:
    file = tmp_path / "experiment.json"
    file.write_text(to_json(tiny.get_config()))
    assert load_experiment(file) == tiny.get_config()
    assert load_experiment(file, ["training.steps=3"]).training.steps == 3
    for content in ("{", "[]", "{}"):
        file.write_text(content)
        with pytest.raises(UserError, match=r"experiment\.json: this is no stored experiment"):
            load_experiment(file)
    with pytest.raises(UserError, match=r"none\.json"):
        load_experiment(tmp_path / "none.json")
