"""The inspection page: one HTML file that shows prepared data, and what the model sees of it."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path

from data_pipelines.augmentation import NO_AUGMENT, AugmentSpec
from data_pipelines.inspection import Inspection
from data_pipelines.inspection.contents import ShardFile
from make_jax.inspection import figures
from make_jax.pages import render_page

MUCH_CUT = 0.05  # of the texts, the share from which on their length is worth a note

_TEMPLATE = Path(__file__).with_name("templates") / "inspect.html.j2"


def render(inspection: Inspection, experiment: str) -> str:
    """The page as a string.

    Args:
      inspection: what to show.
      experiment: whose settings it was made with.
    """
    filters = {"count": "{:,}".format, "percent": "{:.1%}".format, "megabytes": _megabytes, "duration": _duration}
    contents, shape = inspection.contents, inspection.shape
    return render_page(
        _TEMPLATE,
        filters,
        it=inspection,
        contents=contents,
        experiment=experiment,
        variations=_variations(inspection.augment),
        notes=_notes(inspection),
        made_up_draws=_made_up_draws(inspection),
        smallest=min(contents.shards, key=_size),
        largest=max(contents.shards, key=_size),
        titles=figures.token_lengths(contents.title_tokens, "titles", shape.max_title_tokens),
        queries=figures.token_lengths(contents.query_tokens, "queries", shape.max_query_tokens),
        pictures=(
            figures.pictures_per_product(inspection.scan.num_regions, "regions", shape.num_regions)
            if contents.has_regions
            else figures.pictures_per_product(contents.num_images, "pictures", shape.num_images)
        ),
        pair_clicks=figures.click_counts(contents.pair_clicks, "pair"),
        product_clicks=figures.click_counts(contents.product_clicks, "product"),
        shard_sizes=figures.shard_sizes(contents.shards),
        shard_records=figures.shard_records(contents.shards),
    )


def _variations(augment: AugmentSpec) -> str:
    """What is varied, as "min_scale=0.8, flip=True"; "" for nothing."""
    plain = dataclasses.asdict(NO_AUGMENT)
    return ", ".join(f"{key}={value}" for key, value in dataclasses.asdict(augment).items() if value != plain[key])


def _made_up_draws(inspection: Inspection) -> str:
    """How often training shows a query made from a title, for which products."""
    contents, sampling = inspection.contents, inspection.sampling
    if not contents.has_clicks:
        return "all draws are of these" if contents.num_pseudo_pairs else "there are none"
    shares = [
        f"{share:.1%} of the draws show one of {products}"
        for share, products in (
            (sampling.cold_share if contents.share_cold else 0, "a product that nobody clicked"),
            (sampling.pseudo_share, "any product"),
        )
        if share
    ]
    return " and ".join(shares) or "none is drawn, data.cold_share and data.pseudo_share are 0"


def _notes(inspection: Inspection) -> list[str]:
    """What somebody who trains on this data should know first."""
    contents, scan, shape = inspection.contents, inspection.scan, inspection.shape
    notes = []
    if inspection.speed is None:
        notes.append("There are no clicks and no queries made from titles: nothing to train on, no example to show.")
    elif not contents.has_clicks:
        notes.append("There are no clicks; training goes by queries made from titles alone.")
    if scan.num_unreadable:
        notes.append(
            f"{scan.num_unreadable:,} of {scan.scanned:,} products cannot be read: {'; '.join(scan.unreadable)}"
            f"{'; …' if scan.num_unreadable > len(scan.unreadable) else ''}"
        )
    if contents.has_clicks and contents.share_cold and not inspection.sampling.cold_share:
        notes.append(
            f"Nobody clicked {contents.share_cold:.1%} of the products, and training does not show them; with "
            "data.cold_share above 0 it does, under queries made from their titles."
        )
    for what, name, share, tokens in (
        ("titles", "title", inspection.titles_cut, shape.max_title_tokens),
        ("queries", "query", inspection.queries_cut, shape.max_query_tokens),
    ):
        if share > MUCH_CUT:
            notes.append(f"{share:.1%} of the {what} are longer than model.{name}.max_tokens={tokens}.")
    return notes


def _size(shard: ShardFile) -> tuple[int, int]:
    return shard.num_bytes, shard.records


def _megabytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.1f} MB"


def _duration(seconds: float) -> str:
    """Like "1:01:05", or "0.4 s" for what takes less than a minute."""
    return str(timedelta(seconds=round(seconds))) if seconds >= 60 else f"{seconds:.2g} s"
