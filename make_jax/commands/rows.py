"""What becomes of the rows of a table that cannot be used, in commands that read tables."""

from __future__ import annotations

import logging
from pathlib import Path

from data_pipelines.quarantine import Quarantine
from make_jax.errors import UserError

log = logging.getLogger(__name__)

MAX_BAD_SHARE = 0.05


def accept_rows(quarantine: Quarantine, table: str, count: int, out: Path, max_bad_share: float) -> None:
    """Refuse tables of which too much was set aside, say what was, and list it in `OUT.quarantine.parquet`.

    Args:
      quarantine: the rows set aside.
      table: "products" or "queries".
      count: how many of them are left.
      out: what the command writes.
      max_bad_share: of a table.

    Raises:
      DataError: too many bad rows.
      UserError: none are left.
    """
    report = out.with_name(out.name + ".quarantine.parquet")
    for name in quarantine.read:
        quarantine.accept(name, max_bad_share, report)
    if quarantine.bad:
        quarantine.write(report)
    for name, read in quarantine.read.items():
        if reasons := quarantine.reasons(name):
            told = ", ".join(f"{n} {reason}" for reason, n in reasons.items())
            log.warning("%d of %d %s set aside (%s), see %s", sum(reasons.values()), read, name, told, report)
    if count == 0:
        raise UserError(f"there are no {table} to use; check the table")
