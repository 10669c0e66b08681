"""Which products are in the catalogue: the first sound row of an id is, whatever repeats or contradicts it is not."""

from __future__ import annotations

from data_pipelines.quarantine import Quarantine
from data_pipelines.regions import REASON as BAD_REGIONS
from data_pipelines.schema import PRODUCTS, BadRow

_DIGEST_BYTES = 16


class Identities:
    """Admits clean rows to the catalogue, in file order; of each product it holds id and digest only.

    Attributes:
      index: row in the catalogue of each product id.
      region_width: F, that of the first product with region features; 0 before there is one.
    """

    def __init__(self, quarantine: Quarantine) -> None:
        self.index: dict[str, int] = {}
        self.region_width = 0
        self._digests = bytearray()
        self._quarantine = quarantine

    def admit(self, product_id: str, digest: bytes, region_width: int, file: str, row: int) -> bool:
        """Whether this is a new product; if not, the row is counted as merged or set aside.

        Args:
          product_id: of a clean row.
          digest: 16 bytes, equal for equal content.
          region_width: F of this product, 0 if it has no regions.
          file: where the row is.
          row: its number there.
        """
        if (position := self.index.get(product_id)) is not None:
            start = position * _DIGEST_BYTES
            if self._digests[start : start + _DIGEST_BYTES] == digest:
                self._quarantine.merged[PRODUCTS.name] += 1
            else:
                detail = "an earlier row has this id and other content"
                self._set_aside(file, row, product_id, "duplicate_product_id", detail)
            return False
        if region_width and self.region_width and region_width != self.region_width:
            detail = f"each region has {region_width} values, those of earlier products have {self.region_width}"
            self._set_aside(file, row, product_id, BAD_REGIONS, detail)
            return False
        self.index[product_id] = len(self.index)
        self._digests += digest
        self.region_width = self.region_width or region_width
        return True

    def _set_aside(self, file: str, row: int, product_id: str, reason: str, detail: str) -> None:
        self._quarantine.bad.append(BadRow(PRODUCTS.name, file, row, product_id[:200], reason, detail))
