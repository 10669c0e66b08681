"""A plan as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from make_jax.planning.chips import GIB, Slice
from make_jax.planning.estimates import exchanges_by_kind, remedies, roofline, speed
from make_jax.planning.jobs import Compiled, Exchange, Job, Program

ROUGH = (
    "rough: libtpu is not installed (pip install 'make_jax[tpu]'), so this is what XLA's CPU compiler makes of the "
    "step; a TPU needs other memory and other exchanges"
)

PARTS = ("arguments", "temporaries", "results", "code")


class Planned(NamedTuple):
    """One way to train, compiled: `pairs` is what is to be trained on in all."""

    job: Job
    place: Slice
    compiled: Compiled
    pairs: int


def as_text(plans: Sequence[Planned], exchanges: int = 12) -> str:
    """Everything about one plan, or several side by side."""
    lines = [] if plans[0].job.tpu else [ROUGH, ""]
    rows = [_column(plan) for plan in plans]
    names = list(rows[0])
    widths = [max(len(row[name]) for name in names) for row in rows]
    side = max(map(len, names))
    for name in names:
        cells = "  ".join(row[name].rjust(width) for row, width in zip(rows, widths, strict=True))
        lines.append(f"{name:{side}}  {cells}".rstrip())
    for plan in plans:
        lines += _details(plan, exchanges, titled=len(plans) > 1)
    return "\n".join(lines)


def _column(plan: Planned) -> dict[str, str]:
    job, place, compiled = plan.job, plan.place, plan.compiled
    train, embed, batch = compiled.train, compiled.embed, job.experiment.training.batch_size
    busy = roofline(train, place.chip)
    row = {
        "": job.label,
        "chips": f"{place.chips:,} {place.chip.name}",
        "mesh data × fsdp × tensor": " × ".join(str(size) for size in compiled.mesh.values()),
        "parameters": f"{compiled.parameters / 1e6:,.1f} M",
        "batch, of which a chip has": f"{batch:,}, {batch / (compiled.mesh['data'] * compiled.mesh['fsdp']):,.4g}",
        "memory of a chip": _memory(train),
        **{f"  {name}": _gib(train.memory.get(name)) for name in PARTS},
        "fits": "yes" if train.fits else "NO",
    }
    timed = {
        "FLOPs of a chip's step": f"{train.flops / 1e12:,.3f} T",
        "bytes to and from HBM": f"{train.bytes_accessed / 1e9:,.2f} GB",
        "bytes sent to other chips": f"{sum(one.bytes for one in train.exchanges) / 1e9:,.3f} GB",
        "roofline: compute": _time(busy.compute),
        "roofline: HBM": _time(busy.memory),
        "roofline: interconnect": _time(busy.interconnect),
        "step at best": f"{_time(busy.seconds)} ({busy.bound})",
        "compiler's own estimate": _time(train.estimate) if train.estimate else "none",
    }
    row |= timed if train.fits else dict.fromkeys(timed, "-")
    best = speed(compiled, busy.seconds, place.chip, place.chips, batch, plan.pairs) if busy.seconds else None
    row |= {
        "examples/s at best": f"{best.examples:,.0f}" if best and train.fits else "-",
        "MFU at best": f"{best.utilisation:.0%}" if best and train.fits else "-",
        f"days for {plan.pairs:,} pairs": f"{best.days:,.3g}" if best and train.fits else "-",
        "embed: memory of a chip": _memory(embed),
        "embed: products/s at best": _embedded(plan),
    }
    return row


def _memory(program: Program) -> str:
    return f"{program.needed / GIB:.2f} of {program.limit / GIB:.2f} GiB"


def _gib(size: int | None) -> str:
    return "-" if size is None else f"{size / GIB:.2f} GiB"


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms"


def _embedded(plan: Planned) -> str:
    seconds = roofline(plan.compiled.embed, plan.place.chip).seconds
    return f"{plan.compiled.embedded / seconds:,.0f}" if seconds and plan.compiled.embed.fits else "-"


def _details(plan: Planned, exchanges: int, titled: bool) -> list[str]:
    compiled = plan.compiled
    title = f"{plan.job.label}: " if titled else ""
    if not compiled.train.fits:
        return [
            "",
            f"{title}does not fit; change one of",
            *(f"  {line}" for line in remedies(compiled, plan.job.experiment)),
        ]
    lines = ["", f"{title}what the chips send each other in a step"]
    if not compiled.train.exchanges:
        return [*lines, "  nothing"]
    for kind, count, size, seconds in exchanges_by_kind(compiled.train.exchanges):
        lines.append(f"  {kind:18} {count:5} ×  {size / 1e6:12,.2f} MB  {_time(seconds):>12}")
    lines.append("the longest of them")
    lines += [f"  {_exchange(one)}" for one in compiled.train.exchanges[:exchanges]]
    return lines


def _exchange(one: Exchange) -> str:
    return (
        f"{one.kind:18} {one.count:5} ×  {one.bytes / 1e6:12,.2f} MB  {_time(one.seconds):>12}  among {one.group:4}  "
        f"{one.array}  {one.source}"
    )
