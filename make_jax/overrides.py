"""Configs from the outside: `--set a.b=c`, JSON, and experiment files."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import json
import re
import sys
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from make_jax.config import Experiment
from make_jax.errors import UserError

T = typing.TypeVar("T")

_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
    """The experiment of a file, with `a.b=c` overrides applied.

    The file is Python with a `get_config()`, or JSON as a run directory stores it.

    Raises:
      UserError: the file is missing, fails, or returns something else; an override does not fit.
    """
    file = Path(path)
    experiment = _read_json(file) if file.suffix == ".json" else call_file(file, "get_config", Experiment)
    return apply_overrides(experiment, overrides)


def call_file(file: Path, function: str, kind: type[T]) -> T:
    """What a Python file's function returns, which must be of one kind.

    Raises:
      UserError: the file is missing, fails, has no such function, or that returns something else.
    """
    if not file.is_file():
        raise UserError(f"{file}: there is no such {kind.__name__.lower()} file")
    spec = importlib.util.spec_from_file_location(f"make_jax_experiment_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise UserError(f"{file}: {_article(kind)} is a Python file that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
        made = getattr(module, function)()
    except UserError as error:
        raise UserError(f"{file}: {error}") from error
    except Exception as error:
        raise UserError(f"{file}: the {kind.__name__.lower()} fails with {type(error).__name__}: {error}") from error
    if not isinstance(made, kind):
        raise UserError(
            f"{file}: {function}() returned {type(made).__name__}; it must return {kind.__module__}.{kind.__name__}"
        )
    return made


def _article(kind: type) -> str:
    name = kind.__name__.lower()
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _read_json(file: Path) -> Experiment:
    try:
        return from_dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"{file}: this is no stored experiment ({error})") from error


def apply_overrides(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """Replace single values, each given as "section.key=value"; all at once, so that pairs may depend on each other.

    Raises:
      UserError: no "=", an unknown key (the nearest is named), a value of the wrong type, or a combination that
        a section refuses.
    """
    tree = dataclasses.asdict(experiment)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"--set {override}: write it as key=value, such as training.steps=500")
        _set(tree, type(experiment), key.strip(), text.strip())
    return from_dict(tree)


def from_dict(tree: dict[str, Any]) -> Experiment:
    """The inverse of `dataclasses.asdict`; raises UserError for unknown keys and wrong types.

    Keys that are missing have their defaults: what an older version stored knows nothing of later settings.
    """
    return typing.cast(Experiment, _build(Experiment, tree, ""))


def unknown_settings(tree: dict[str, Any]) -> list[str]:
    """The keys of a stored experiment that there are no settings for, such as "model.image.stem"."""
    return list(_unknown(Experiment, tree, ""))


def _unknown(section: type, tree: dict[str, Any], where: str) -> Iterator[str]:
    hints = typing.get_type_hints(section)
    for key, value in tree.items():
        if key not in hints:
            yield where + key
        elif dataclasses.is_dataclass(hints[key]) and isinstance(value, dict):
            yield from _unknown(typing.cast(type, hints[key]), value, f"{where}{key}.")


def to_json(experiment: Experiment) -> str:
    """The experiment as JSON, as a run directory stores it."""
    return json.dumps(dataclasses.asdict(experiment), indent=2) + "\n"


def _kind(section: type, key: str, where: str) -> Any:
    """The type of a section's key; an unknown key is refused with the nearest known one."""
    hints = typing.get_type_hints(section)
    if key in hints:
        return hints[key]
    near = difflib.get_close_matches(key, hints, n=1)
    hint = f"did you mean {where}{near[0]}?" if near else f"known here: {', '.join(hints)}"
    raise UserError(f"{where}{key}: there is no such setting; {hint}")


def _set(tree: dict[str, Any], section: type, key: str, text: str) -> None:
    *parents, leaf = key.split(".")
    where = ""
    for name in parents:
        kind = _kind(section, name, where)
        where += f"{name}."
        if not dataclasses.is_dataclass(kind):
            raise UserError(f"{key}: {where[:-1]} is a value and has no keys of its own")
        tree, section = tree[name], typing.cast(type, kind)
    kind = _kind(section, leaf, where)
    if dataclasses.is_dataclass(kind):
        inner = ", ".join(field.name for field in dataclasses.fields(kind))
        raise UserError(f"{key}: this is a section, not a value; set one of its keys ({inner})")
    tree[leaf] = _parse(key, kind, text)


def _build(section: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise UserError(f"{where[:-1]}: expected a section, found {tree!r}")
    values = {}
    for key, value in tree.items():
        kind = _kind(section, key, where)
        if dataclasses.is_dataclass(kind):
            values[key] = _build(typing.cast(type, kind), value, f"{where}{key}.")
        else:
            values[key] = _check(f"{where}{key}", kind, value)
    missing = [f"{where}{field.name}" for field in dataclasses.fields(section) if _must_be_given(field, values)]
    if missing:
        raise UserError(f"{', '.join(missing)}: missing, but it has no default")
    try:
        return section(**values)
    except UserError as error:
        # A section that is used in several places says ".key", for it cannot know which of them it is.
        raise UserError(re.sub(r"(?<![\w.])\.(?=[a-z])", where, str(error))) from error


def _must_be_given(field: dataclasses.Field[Any], values: dict[str, Any]) -> bool:
    has_default = field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    return field.name not in values and not has_default


def _options(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _item(kind: Any) -> Any:
    """The type of a tuple's items; None for what is no tuple of any length."""
    return typing.get_args(kind)[0] if typing.get_origin(kind) is tuple else None


def _describe(kind: Any) -> str:
    if _item(kind) is str:
        return "texts with commas between, or nothing"
    if item := _item(kind):
        value = "NUMBER" if float in typing.get_args(item) else "TEXT"
        return f"PATTERN={value}, with commas between, or nothing"
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(repr, typing.get_args(kind)))
    return " or ".join("none" if option is type(None) else option.__name__ for option in _options(kind))


def _parse(key: str, kind: Any, text: str) -> Any:
    if item := _item(kind):
        texts = [part.strip() for part in text.split(",") if part.strip()]
        return texts if item is str else [_pair(key, kind, part) for part in texts]
    for option in _options(kind):
        if option is type(None) and text.lower() in ("none", "null"):
            return None
        if typing.get_origin(option) is typing.Literal and text in typing.get_args(option):
            return text
        if option is bool and text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        if option is str:
            return text
        if option in (int, float):
            try:
                return option(text)
            except ValueError:
                continue
    raise UserError(f"{key}={text}: expected {_describe(kind)}")


def _pair(key: str, kind: Any, text: str) -> list[Any]:
    pattern, equals, value = text.rpartition("=")
    try:
        if equals:
            return [pattern, float(value) if float in typing.get_args(_item(kind)) else value]
    except ValueError:
        pass
    raise UserError(f"{key}={text}: expected {_describe(kind)}")


def _check(key: str, kind: Any, value: Any) -> Any:
    if item := _item(kind):
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{key}={value!r}: expected a list")
        return tuple(
            _check(key, item, entry) if item is str else _check_pair(key, typing.get_args(item), entry)
            for entry in value
        )
    for option in _options(kind):
        if typing.get_origin(option) is typing.Literal:
            if value in typing.get_args(option):
                return value
        elif option is float and type(value) in (int, float):
            return float(value)
        elif type(value) is option:
            return value
    raise UserError(f"{key}={value!r}: expected {_describe(kind)}")


def _check_pair(key: str, kinds: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)) or len(value) != len(kinds):
        raise UserError(f"{key} has {value!r}: expected a pair of pattern and {'number' if float in kinds else 'text'}")
    return tuple(_check(key, kind, part) for kind, part in zip(kinds, value, strict=True))
