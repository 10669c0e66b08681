"""Checkpoints: kept by rule, restored whole, of older versions too; what is damaged or foreign is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from make_jax import __version__
from make_jax.errors import UserError
from make_jax.training.checkpoint_files import DELETED, remove, saved, saved_steps
from make_jax.training.checkpoints import Checkpoints, damage, saved_params
from make_jax.training.policy import new_watch
from make_jax.training.step import TrainState

HERE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def state(value: float = 1.0, average: bool = False, **more: float) -> TrainState:
    """A state of a few arrays, one of them bfloat16."""
    params = {"tower": {"kernel": jnp.full((3, 4), value), **{name: jnp.full(2, v) for name, v in more.items()}}}
    moments = ({"mu": jnp.full((3, 4), value, jnp.bfloat16)}, ())
    doubled = jax.tree.map(lambda leaf: leaf * 2, params) if average else ()
    return TrainState(jnp.int32(7), params, moments, (), new_watch(), doubled)


def restored(folder: Path, step: int, like: TrainState) -> TrainState:
    shapes = jax.eval_shape(lambda: like)
    with closing(Checkpoints(folder, set)) as checkpoints:
        return checkpoints.restore(step, shapes, jax.tree.map(lambda _: HERE, shapes))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Checkpoints of the steps 1 and 2."""
    with closing(Checkpoints(tmp_path / "checkpoints", set)) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step))
    return tmp_path / "checkpoints"


@pytest.mark.parametrize("average", [False, True])
def test_everything_comes_back(tmp_path: Path, average: bool) -> None:
    with closing(Checkpoints(tmp_path, set)) as checkpoints:
        checkpoints.save(5, state(3.0, average))
    found, expected = restored(tmp_path, 5, state(0.0, average)), state(3.0, average)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert ours.dtype == theirs.dtype
        np.testing.assert_array_equal(ours, theirs)
    # What another run starts with is what is to be used.
    used = saved_params(tmp_path, 5)["tower"]["kernel"]
    np.testing.assert_array_equal(used, np.full((3, 4), 6.0 if average else 3.0))
    assert damage(tmp_path / "5") is None
    about = saved(tmp_path, 5)
    assert (about.step, about.has_checksums, about.version) == (5, True, __version__)
    assert about.size == sum(file.stat().st_size for file in (tmp_path / "5").rglob("*") if file.is_file())


def test_what_is_not_kept_goes_and_what_is_learned_later_counts(tmp_path: Path) -> None:
    wanted = {1}
    with closing(Checkpoints(tmp_path, lambda steps: {*wanted, *steps[-1:]})) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, state())
        checkpoints.save(3, state(9.0))  # there already
        wanted.clear()
        checkpoints.prune()
    assert [path.name for path in tmp_path.iterdir()] == ["3"]
    np.testing.assert_array_equal(saved_params(tmp_path, 3)["tower"]["kernel"], np.ones((3, 4)))


def test_half_removed_and_half_saved_are_not_there(folder: Path) -> None:
    """As a kill in the middle of either leaves them."""
    (folder / "1").rename(folder / "3.orbax-checkpoint-tmp")
    (folder / DELETED / "0").mkdir(parents=True)
    assert saved_steps(folder) == [2]
    with closing(Checkpoints(folder, set)) as checkpoints:
        assert checkpoints.latest() == 2
    assert saved_steps(folder) == [2]
    assert not (folder / DELETED).exists()
    remove(folder, 2)
    assert saved_steps(folder) == []
    assert not (folder / DELETED).exists()


def test_a_checkpoint_of_before_averages_and_records_is_read(tmp_path: Path) -> None:
    old = {name: part for name, part in state(4.0)._asdict().items() if name != "average"}
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(8, args=ocp.args.StandardSave(old))
    np.testing.assert_array_equal(restored(tmp_path, 8, state()).params["tower"]["kernel"], np.full((3, 4), 4.0))
    assert damage(tmp_path / "8") is None
    assert not saved(tmp_path, 8).has_checksums


def test_arrays_of_another_model_are_named(folder: Path) -> None:
    with pytest.raises(UserError) as error:
        restored(folder, 2, state(average=True, scale=1.0))
    for part in (
        f"make_jax {__version__}",
        "average/tower/kernel, average/tower/scale, params/tower/scale missing",
        "--workdir",
    ):
        assert part in str(error.value)
    other = state()._replace(params={"tower": {"kernel": jnp.ones((3, 5))}}, optimizer=())
    with pytest.raises(UserError, match=r"optimizer/0/mu not wanted; params/tower/kernel of another shape"):
        restored(folder, 2, other)


def test_another_format_is_refused_with_both_versions(folder: Path) -> None:
    record = folder / "2" / "make_jax.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"format": 9, "make_jax": "4.2.0"}))
    for read in (lambda: restored(folder, 2, state()), lambda: saved_params(folder, 2)):
        with pytest.raises(UserError, match=rf"format 9 of make_jax 4\.2\.0; here is make_jax {__version__}, which"):
            read()


def arrays(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file() and file.parent.name == "d"]


def largest(path: Path) -> Path:
    return max(arrays(path), key=lambda file: file.stat().st_size)


def flip(path: Path) -> None:
    content = bytearray(largest(path).read_bytes())
    content[len(content) // 2] ^= 1
    largest(path).write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (flip, "is not what was written"),
        (lambda path: largest(path).unlink(), "is missing"),
        (lambda path: (path / "make_jax.json").write_text("{"), "make_jax.json cannot be read"),
    ],
)
def test_damage_is_named(folder: Path, harm: Callable[[Path], object], told: str) -> None:
    harm(folder / "2")
    assert told in (damage(folder / "2") or "")
    assert damage(folder / "1") is None


def test_without_checksums_the_arrays_tell(folder: Path) -> None:
    for step in (1, 2):
        (folder / str(step) / "make_jax.json").unlink()
    for file in arrays(folder / "2"):
        file.write_bytes(file.read_bytes()[:-20])
    assert damage(folder / "1") is None
    assert damage(folder / "2")


def test_what_is_not_finite_is_named(tmp_path: Path) -> None:
    with closing(Checkpoints(tmp_path, set)) as checkpoints:
        checkpoints.save(1, state(scale=float("nan")))
        checkpoints.save(2, state()._replace(optimizer=({"mu": jnp.full((3, 4), jnp.inf, jnp.bfloat16)}, ())))
    assert damage(tmp_path / "1") == "params/tower/scale is not finite"
    assert damage(tmp_path / "2") == "optimizer/0/mu is not finite"
