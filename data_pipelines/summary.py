"""What `prepare` did, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class PrepareSummary:
    """The outcome of one `prepare`.

    Attributes:
      out: the prepared data directory.
      storage: the form of the shards.
      rows_read: rows by table, good and bad; "further images" are all pictures but the main ones.
      set_aside: rows set aside, by table and reason code; details are in `out`/quarantine.parquet.
      duplicates_merged: product and qrel rows that repeated an earlier one.
      rows_without_click: rows of the click log without click or purchase, which were left out.
      counts: products, images, queries and query_keys of the log, interactions, pseudo_queries that no shopper typed,
        pseudo_pairs, dev_queries, qrels, shards, vocabulary: as written.
      mean_title_tokens: of the products that have a title, special tokens included.
      region_width: of the pre-computed features that stand in place of pictures; 0 for none.
      share_without_title: of the products.
      share_without_image: of the products; regions count as image.
      share_cold: of the products, those that nobody clicked.
      size_bytes: of the whole directory.
      seconds: wall-clock time.
    """

    out: Path
    storage: str
    rows_read: dict[str, int]
    set_aside: dict[str, dict[str, int]]
    duplicates_merged: int
    rows_without_click: int
    counts: dict[str, int]
    mean_title_tokens: float
    region_width: int
    share_without_title: float
    share_without_image: float
    share_cold: float
    size_bytes: int
    seconds: float

    def text(self) -> str:
        """Some lines for people."""
        counts = self.counts
        lines = [
            f"{self.out}: {self.size_bytes / 1e6:,.1f} MB in {self.seconds:.0f} s",
            f"  products      {counts['products']:>12,}   in {counts['shards']} {self.storage} shards; "
            f"{self.share_without_title:.1%} without title, {self.share_without_image:.1%} without image",
            self._pictures(),
            f"  training      {counts['interactions']:>12,}   pairs of query and product, "
            f"{counts['queries']:,} queries, {counts['query_keys']:,} keyword sets",
            f"  pseudo        {counts['pseudo_pairs']:>12,}   pairs of products and pieces of their titles, "
            f"{counts['pseudo_queries']:,} new queries; nobody clicked {self.share_cold:.1%} of the products",
            f"  dev           {counts['qrels']:>12,}   judgements of {counts['dev_queries']:,} queries",
            f"  tokenizer     {counts['vocabulary']:>12,}   tokens; {self.mean_title_tokens:.1f} in a mean title",
        ]
        if self.duplicates_merged:
            lines.append(f"  merged        {self.duplicates_merged:>12,}   rows that repeated an earlier one")
        if self.rows_without_click:
            lines.append(f"  left out      {self.rows_without_click:>12,}   rows of the log without a click")
        for table, reasons in self.set_aside.items():
            for reason, count in reasons.items():
                lines.append(f"  set aside     {count:>12,}   of {self.rows_read[table]:,} {table}: {reason}")
        if self.set_aside:
            lines.append(f"  see {self.out / 'quarantine.parquet'}")
        return "\n".join(lines)

    def _pictures(self) -> str:
        if self.region_width:
            return f"  regions       {self.region_width:>12,}   values each, in place of pictures"
        images, products = self.counts["images"], self.counts["products"]
        return f"  pictures      {images:>12,}   or {images / products:.1f} per product"
