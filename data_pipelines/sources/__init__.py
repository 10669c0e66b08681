"""Foreign layouts and the modules that read them; nothing of it is imported before it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from data_pipelines.sources.rows import Options, Row
    from data_pipelines.sources.skipped import Skipped

Pictures = Literal["image", "images", "regions"]


@dataclass(frozen=True)
class Source:
    """A layout that `convert` reads.

    Attributes:
      name: on the command line.
      module: in this package; its `read(folder, options, skipped)` yields the rows.
      pictures: what products have: at most one picture, several, or regions in place of pixels.
      options: the fields of `Options` that it takes.
      segments: the further columns of its queries.
    """

    name: str
    module: str
    pictures: Pictures
    options: tuple[str, ...] = ()
    segments: tuple[str, ...] = ()

    def rows(self, folder: Path, options: Options, skipped: Skipped) -> Iterator[Row]:
        """The rows of all tables, in the order in which they are met.

        Raises:
          DataError: a file is missing or cannot be read.
        """
        rows: Iterator[Row] = import_module(f"{__name__}.{self.module}").read(folder, options, skipped)
        return rows


SOURCES = {
    source.name: source
    for source in (
        Source("webdataset", "webdataset", "images", ("field",)),
        Source("kaggle-fashion", "kaggle_fashion", "image", ("images",)),
        Source("esci-sqid", "esci_sqid", "image", ("images", "locale", "split"), ("locale", "version")),
        Source("marqo-gs-10m", "marqo_gs", "image", ("images", "split"), ("split",)),
        Source("kdd-cup-2020", "kdd_cup_2020", "regions", ("split", "titles")),
        Source("abo", "abo", "images", ("images", "language")),
    )
}
