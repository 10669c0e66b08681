"""The checks that sections of the configuration are made of; each raises UserError and says how to mend it."""

from __future__ import annotations

import re

from make_jax.errors import UserError


def require(ok: bool, message: str) -> None:
    """Refuses with `message` what is not `ok`."""
    if not ok:
        raise UserError(message)


def at_least(section: str, minimum: float, **values: float) -> None:
    """Refuses values of the keys of a section that are below `minimum`."""
    for name, value in values.items():
        require(value >= minimum, f"{section}.{name} is {value}, but it must be at least {minimum}")


def share(section: str, **values: float) -> None:
    """Refuses values of the keys of a section that are no shares, from 0 to below 1."""
    for name, value in values.items():
        require(0.0 <= value < 1.0, f"{section}.{name} is {value}, but a share must be in [0, 1)")


def is_pattern(text: str) -> bool:
    """Whether a text is a regular expression that says anything."""
    try:
        re.compile(text)
    except re.error:
        return False
    return bool(text)
