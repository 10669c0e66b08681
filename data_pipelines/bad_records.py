"""Products that cannot be read while training or embedding: left out and counted, up to a limit."""

from __future__ import annotations

import logging
from collections.abc import Callable

from data_pipelines.errors import DataError

log = logging.getLogger(__name__)


class BadRecords:
    """Counts the products that were set aside, each once however often it is drawn, and stops when they are too many.

    A disk that loses a picture should not cost a week of training; one that loses a shard should stop it.

    Attributes:
      source: where the products come from, for messages.
    """

    def __init__(
        self,
        source: str,
        total: int,
        max_share: float = 0.001,
        locate: Callable[[int], tuple[str, int]] | None = None,
    ) -> None:
        """Starts at none.

        Args:
          source: where the products come from, for messages.
          total: N.
          max_share: of N, what may be set aside; 0 stops at the first.
          locate: from a product's row to its shard's name and the record in it; None where there are no shards.

        Raises:
          DataError: max_share is not between 0 and 1.
        """
        if not 0 <= max_share <= 1:
            raise DataError(f"max_bad_share={max_share} must be between 0 and 1")
        self.source = source
        self._total, self._max_share, self._locate = total, max_share, locate
        self._rows: set[int] = set()

    @property
    def count(self) -> int:
        """How many products have been set aside."""
        return len(self._rows)

    def add(self, row: int, product_id: str, reason: str) -> None:
        """Sets a product aside.

        Raises:
          DataError: that makes more than `max_share`, naming this product.
        """
        if row in self._rows:
            return
        self._rows.add(row)
        fault = f"{self.source}: product {product_id!r}{self._place(row)}: {reason}"
        if self.count > self._max_share * self._total:
            raise DataError(f"{fault}; {self._verdict()}")
        log.warning("%s; it is left out (%d of %d products so far)", fault, self.count, self._total)

    def _place(self, row: int) -> str:
        if self._locate is None:
            return ""
        shard, record = self._locate(row)
        return f" (record {record} of {shard})"

    def _verdict(self) -> str:
        counted = (
            f"{self.count} of {self._total} products cannot be used, data.max_bad_share={self._max_share:g} allows "
            f"{int(self._max_share * self._total)}"
        )
        if self._locate is None:
            return f"{counted}; replace or remove it"
        return f"{counted}; restore that file, run `make-jax prepare` again, or raise data.max_bad_share"
