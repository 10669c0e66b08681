"""Commands that train models, or find what to train them with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from make_jax.cli.errors import Command, stop
from make_jax.cli.options import PATH
from make_jax.planning.options import plan_options
from make_jax.retrieval.options import mine_options
from make_jax.sweeps.options import sweep_options


@click.command(cls=Command)
@click.option("--workdir", type=PATH, default=Path("make-jax-demo"), help="Where everything goes.")
@click.option("--seed", type=click.IntRange(0, 2**32 - 1), default=0)
def demo(workdir: Path, seed: int) -> None:
    """The whole path on a synthetic catalogue, from products to a report to look at."""
    from make_jax.commands.demo import run_demo

    report = run_demo(workdir, seed)
    if report is None:
        click.echo(f"{workdir}: stopped and saved; the same command goes on from there")
        return
    click.echo(
        f"\nLook at {report}\nSearch with: make-jax search --run {workdir}/run --index {workdir}/index 'red dress'"
    )


@click.command(cls=Command)
@click.argument("experiment", type=PATH)
@click.option(
    "--data",
    multiple=True,
    required=True,
    metavar="DATA[=WEIGHT]",
    help="Folder that prepare or data cache wrote; repeat it to mix several, with weights if wanted.",
)
@click.option("--workdir", type=PATH, required=True, help="Run directory; an existing run goes on.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change a setting, as training.steps=500.")
@click.option("--init-from", metavar="RUN[@STEP]", help="Run, or checkpoint of a run, whose parameters to start with.")
@click.option("--negatives", metavar="NEGATIVES", help="Hard negatives that mine wrote, for objectives.hard_negatives.")
@click.option("--compilation-cache", type=PATH, help="Folder that keeps compiled programs for the next start.")
@click.option("--profile", is_flag=True, help="Trace a few steps for TensorBoard's profiler.")
@click.option("--coordinator", metavar="HOST:PORT", help="Of process 0; found by itself under Slurm and on TPUs.")
@click.option("--processes", type=click.IntRange(min=1), help="How many train as one; 1: alone, whatever is found.")
@click.option("--process-id", type=click.IntRange(min=0), help="Which of them this is, from 0.")
@click.option(
    "--stopped-code",
    type=click.IntRange(0, 255),
    default=0,
    help="Exit code of a run that was told to stop and has saved, for what starts it again.",
)
def train(
    experiment: Path,
    data: tuple[str, ...],
    workdir: Path,
    overrides: tuple[str, ...],
    init_from: str | None,
    negatives: str | None,
    stopped_code: int,
    compilation_cache: Path | None,
    profile: bool,
    **processes: Any,
) -> None:
    """Train EXPERIMENT (a Python file); run it again to go on after a stop."""
    from make_jax.overrides import load_experiment
    from make_jax.training.host_memory import keep_freed_memory
    from make_jax.training.hosts import ProcessesApart, is_first, join_processes

    if init_from:
        overrides = (*overrides, f"training.init_from={init_from}")
    if negatives:
        overrides = (*overrides, f"training.negatives={negatives}")
    if compilation_cache:
        import jax

        jax.config.update("jax_compilation_cache_dir", str(compilation_cache.absolute()))
    try:
        join_processes(**processes)  # before an experiment file or anything else asks jax for its devices
    except ProcessesApart as error:
        stop(str(error), 1)
    loaded = load_experiment(experiment, overrides)
    keep_freed_memory()  # of this process, which is there to train
    from make_jax.commands.train import train_run
    from make_jax.training.policy import NonFiniteLoss

    try:
        outcome = train_run(loaded, data, workdir, profile)
    except NonFiniteLoss as error:
        stop(str(error), 1)
    steps = loaded.training.steps
    if is_first():
        click.echo(
            f"{workdir}: trained {steps} steps"
            if outcome.finished
            else f"{workdir}: stopped and saved at step {outcome.step} of {steps}; the same command goes on from there"
        )
    if not outcome.finished:
        sys.exit(stopped_code)


@click.command(cls=Command)
@click.argument("run", type=PATH)
@click.option("--verify", is_flag=True, help="Read every array back: checksums, and no NaN or infinity.")
@click.option("--prune", metavar="policy|STEP,...", help="Remove what the settings do not keep, or these steps.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and remove nothing.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="As training.keep_checkpoints=1.")
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def checkpoints(as_json: bool, **options: Any) -> None:
    """List the checkpoints of RUN, a run that nobody trains at the moment, and which of them stay."""
    import jax

    jax.config.update("jax_platforms", "cpu")  # an accelerator may be at work, and none is needed
    from make_jax.commands import checkpoints as listing

    found = listing.checkpoints(**options)
    click.echo(listing.as_json(found) if as_json else listing.as_text(found))
    if error := found.error():
        stop(error, 2)


@click.command(cls=Command)
@plan_options
def plan(as_json: bool, **options: Any) -> None:
    """Say what training EXPERIMENT (a Python file) would need and take on a TPU slice, without having one."""
    from make_jax.commands import plan as planning
    from make_jax.planning.page import as_text

    failure = None
    try:
        plans = planning.plan(**options)
    except planning.CompilerFailed as error:
        failure, plans = str(error), error.plans
    if plans:
        click.echo(planning.as_json(plans) if as_json else as_text(plans))
    if failure:
        stop(failure, 1)


@click.command(cls=Command)
@sweep_options
def sweep(sweep: Path, **options: Any) -> None:
    """Make every run of SWEEP (a Python file), then one table; run it again to go on after a stop."""
    from make_jax.commands.sweep import SweepOptions, run_sweep

    report = run_sweep(SweepOptions(sweep, **options))
    click.echo("\n".join(report.lines))
    if report.failed:
        sys.exit(1)


@click.command(cls=Command)
@mine_options
def mine(run: Path, data: tuple[str, ...], out: Path, index: Path | None, **rules: Any) -> None:
    """Find hard negatives: near products that nobody clicked under a query, for train --negatives."""
    from make_jax.commands.mine import mine as run_mine
    from make_jax.retrieval.mining import MiningRules

    click.echo(run_mine(run, data, out, MiningRules(**rules), index).text())
