"""`make-jax sweep`: every run of a sweep file, then one table."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from make_jax.errors import UserError
from make_jax.run import provenance
from make_jax.sweeps import folders, launchers
from make_jax.sweeps.execute import MAKE_JAX, Executor, Job, Judgements, is_done, shown, train_command
from make_jax.sweeps.plan import PlannedRun, Variant, load_sweep, plan_variants, select_runs
from make_jax.sweeps.processes import stop_on_signal
from make_jax.sweeps.results import RunResult, read_result
from make_jax.sweeps.schedule import ListSource, Schedule, duration
from make_jax.sweeps.sweep import Sweep
from make_jax.sweeps.table import Table, build_table
from make_jax.sweeps.writing import write_table

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SweepOptions:
    """What the user asked for; see `make-jax sweep --help`. `program` is what stands before "train"."""

    file: Path
    data: tuple[str, ...]
    workdir: Path
    overrides: tuple[str, ...] = ()
    seeds: int | None = None
    minutes: float | None = None
    only: tuple[str, ...] = ()
    jobs: int = 1
    gpus: str | None = None
    baseline: str | None = None
    products: tuple[str, ...] = ()
    queries: str | None = None
    qrels: str | None = None
    without: tuple[str, ...] = ()
    evaluate_options: str = ""
    dry_run: bool = False
    collect: bool = False
    table: bool = True
    launcher: str = "local"
    slurm: tuple[str, ...] = ()
    tpu: tuple[str, ...] = ()
    zone: str | None = None
    before: str = ""
    program: tuple[str, ...] = field(default=MAKE_JAX, repr=False)


class Report(NamedTuple):
    """What to tell at the end: lines, and whether any run failed."""

    lines: list[str]
    failed: bool = False


def run_sweep(options: SweepOptions) -> Report:
    """Make all runs that are not done yet, then the table.

    Raises:
      UserError: the file, a variant or an option is wrong; then nothing was run.
    """
    sweep = load_sweep(options.file, options.seeds, options.minutes)
    sweep = sweep if options.baseline is None else replace(sweep, baseline=options.baseline)
    variants = plan_variants(sweep, options.overrides)
    job = _job(options, sweep)
    runs = [] if sweep.search and not variants else select_runs(variants, sweep.seed_list, options.only)
    _check(options, sweep, variants, job)
    folders.check_workdir(options.workdir, sweep.name, _absolute(options.data))
    for run in runs:
        folders.check_unchanged(folders.RunFolder(options.workdir, run), run, sweep.minutes)
    if options.dry_run and options.launcher == "local":
        return Report(_planned(options, sweep, runs, job))
    if not options.dry_run:
        folders.open_workdir(options.workdir, sweep.name, options.file.absolute(), _absolute(options.data))
    if options.launcher != "local" and not options.collect:
        return _launch(options, [run for run in runs if not is_done(folders.RunFolder(options.workdir, run), job)])
    stopped = False if options.collect else _work(options, sweep, runs, job)
    return _finish(options, sweep, variants, runs, job, stopped)


# ---- checks ---------------------------------------------------------------------------------------------------------


def _check(options: SweepOptions, sweep: Sweep, variants: Sequence[Variant], job: Job) -> None:
    """Refuse what cannot go together."""
    names = [variant.name for variant in variants]
    if sweep.baseline is not None and sweep.baseline not in names and not sweep.search:
        raise UserError(f"baseline {sweep.baseline}: there is no such variant; there are: {', '.join(names[:20])}")
    if sweep.search and options.launcher != "local":
        raise UserError(
            f"--launcher {options.launcher}: a search needs each result before the next run, and runs here only; use "
            "grid() or draws() for runs elsewhere"
        )
    if sweep.search and not options.collect:
        from make_jax.sweeps.search import check_optuna

        check_optuna()
    if options.launcher == "tpu-vm" and (sweep.minutes or job.judgements):
        raise UserError(
            "--launcher tpu-vm trains by steps and evaluates nothing, for all hosts of a slice must do the same; leave "
            "out the minutes, and give --queries when you run the same sweep here to make the table"
        )
    if len(_executors(options)) > 1 and sweep.minutes:
        log.warning(
            "%d runs at a time share this machine, so equal minutes are not equal work; use --jobs 1 to compare "
            "variants by time, unless each run has devices and cores of its own",
            len(_executors(options)),
        )


def _job(options: SweepOptions, sweep: Sweep) -> Job:
    given = (bool(options.products), options.queries is not None, options.qrels is not None)
    if any(given) and not all(given):
        raise UserError("--products, --queries and --qrels go together: give all three to have runs evaluated")
    judgements = None
    if options.queries is not None and options.qrels is not None:
        extra = tuple(shlex.split(options.evaluate_options))
        judgements = Judgements(options.products, options.queries, options.qrels, options.without, extra)
    elif options.evaluate_options or options.without:
        raise UserError("--evaluate and --without need --products, --queries and --qrels to evaluate on")
    return Job(options.workdir, options.data, sweep.minutes, judgements, options.program)


def _absolute(data: Sequence[str]) -> list[str]:
    """Data as it is recorded, so that it is the same from any working directory."""
    return [choice if "://" in choice else str(Path(choice).absolute()) for choice in data]


def _executors(options: SweepOptions) -> list[dict[str, str]]:
    """The environment of each run that works at a time."""
    if options.gpus is None:
        return [{} for _ in range(options.jobs)]
    gpus = [gpu.strip() for gpu in options.gpus.split(",")]
    if not all(gpus) or len(set(gpus)) != len(gpus):
        raise UserError(f"--gpus {options.gpus}: write different numbers with commas between, such as 0,1")
    return [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus]


# ---- elsewhere ------------------------------------------------------------------------------------------------------


def _planned(options: SweepOptions, sweep: Sweep, runs: Sequence[PlannedRun], job: Job) -> list[str]:
    lines = []
    for run in runs:
        folder = folders.RunFolder(options.workdir, run)
        state = "done" if is_done(folder, job) else "goes on" if folder.has_begun else "to run"
        changes = " ".join(f"{key}={value}" for key, value in run.variant.changes.items())
        lines += [f"{run.name}: {state}" + (f" ({changes})" if changes else "")]
        lines += [f"  {shown(train_command(folder, options.data))}"]
    if sweep.search:
        lines.append(f"and {sweep.search.trials} trials of a search over {', '.join(sweep.search.space)}")
    return lines


def _launch(options: SweepOptions, runs: Sequence[PlannedRun]) -> Report:
    """Print or submit a command for each run."""
    if options.launcher == "tpu-vm":
        pairs = [(run, folders.RunFolder(options.workdir, run)) for run in runs]
        lines = launchers.tpu_lines(pairs, options.data, options.tpu, options.zone, options.before)
        if not options.dry_run:
            for run, folder in pairs:
                folders.write_variant(options.workdir, run.variant)
                folder.path.mkdir(parents=True, exist_ok=True)
                folders.write_experiment(folder, run, None)
        return Report(lines)
    commands = {run.name: launchers.one_run_command(_own_command(options), run) for run in runs}
    if options.launcher == "print" or options.dry_run:
        return Report([shown(command) for command in commands.values()])
    settings = launchers.slurm_settings(options.slurm)
    jobs = launchers.submit(commands, options.workdir / "slurm", settings, options.program)
    lines = [f"{name}: job {job.job_id}" for name, job in jobs.items()]
    return Report([*lines, "When they have ended: " + shown([*_own_command(options), "--collect"])])


def _own_command(options: SweepOptions) -> list[str]:
    """This sweep's command again, without what says where to run."""
    command = ["sweep", str(options.file)]
    pairs = [("--data", choice) for choice in options.data] + [("--workdir", str(options.workdir))]
    pairs += [("--set", override) for override in options.overrides]
    single = (("--seeds", options.seeds), ("--minutes", options.minutes), ("--baseline", options.baseline))
    pairs += [(flag, str(value)) for flag, value in single if value is not None]
    pairs += [("--products", glob) for glob in options.products]
    pairs += [("--without", condition) for condition in options.without]
    texts = (("--queries", options.queries), ("--qrels", options.qrels), ("--evaluate", options.evaluate_options))
    pairs += [(flag, text) for flag, text in texts if text]
    return command + [part for pair in pairs for part in pair]


# ---- here -----------------------------------------------------------------------------------------------------------


def _work(options: SweepOptions, sweep: Sweep, runs: Sequence[PlannedRun], job: Job) -> bool:
    """Make the runs that are not done; returns whether it was told to stop."""
    left = [run for run in runs if not is_done(folders.RunFolder(options.workdir, run), job)]
    if len(left) < len(runs):
        log.info("%d of %d runs are done already", len(runs) - len(left), len(runs))
    with stop_on_signal() as stop:
        schedule = Schedule([Executor(job, stop, environment) for environment in _executors(options)])
        if left:
            schedule.work(ListSource(left))
        if sweep.search and not stop.asked.is_set() and not options.only:
            from make_jax.sweeps.search import SearchSource

            schedule.work(SearchSource(sweep, options.overrides, options.workdir, _objective(sweep, job)))
        return stop.asked.is_set()


def _objective(sweep: Sweep, job: Job) -> Callable[[PlannedRun], float | None]:
    def objective(run: PlannedRun) -> float | None:
        result = read_result(job.workdir, run, job.data, sweep.metric, job.judgements is not None)
        return result.metrics.get(sweep.metric)

    return objective


def _finish(
    options: SweepOptions,
    sweep: Sweep,
    variants: Sequence[Variant],
    runs: Sequence[PlannedRun],
    job: Job,
    stopped: bool,
) -> Report:
    """The table of all that is there, and what to say."""
    trials = _trials(options.workdir, sweep) if sweep.search else []
    everything = [PlannedRun(variant, seed) for variant in [*variants, *trials] for seed in sweep.seed_list]
    judged = job.judgements is not None
    results = [read_result(options.workdir, run, options.data, sweep.metric, judged) for run in everything]
    wanted = {run.name for run in runs} | {run.name for run in everything if run.variant in trials}
    mine = [result for result in results if result.name in wanted]
    failed = [result for result in mine if result.state == "failed"]
    lines = _write(options, sweep, [*variants, *trials], results) if options.table else []
    lines += [f"failed: {result.name}: {result.reason}" for result in failed]
    done = sum(result.state == "done" for result in mine)
    lines.append(f"{done} of {len(mine)} runs done" + (f", {len(failed)} failed" if failed else ""))
    if stopped and done < len(mine):
        lines.append("stopped and saved; the same command goes on from there")
    elif failed:
        lines.append("the same command tries the failed ones again, and goes on where they stopped")
    return Report(lines, bool(failed))


def _trials(workdir: Path, sweep: Sweep) -> list[Variant]:
    """The variants that a search has tried so far."""
    assert sweep.base is not None
    records = [folders.read_json(file) for file in sorted(workdir.glob("runs/trial-*/variant.json"))]
    return [Variant(record["name"], record["changes"], sweep.base) for record in records]


def _write(options: SweepOptions, sweep: Sweep, variants: Sequence[Variant], results: Sequence[RunResult]) -> list[str]:
    table: Table = build_table(
        sweep.name,
        sweep.metric,
        [(variant.name, variant.changes) for variant in variants],
        results,
        command=provenance()["command"],
        baseline=sweep.baseline,
        minutes=sweep.minutes,
    )
    paths = write_table(table, options.workdir)
    lines = []
    for row in table.rows:
        if sweep.metric in row.metrics:
            mean, deviation, values = row.metrics[sweep.metric]
            spread = "" if deviation is None else f" ± {deviation:.4f}"
            seconds = row.mean("seconds")
            time = f", {duration(seconds)}" if seconds else ""
            lines.append(f"{sweep.metric} {mean:.4f}{spread}  {row.name} ({len(values)} seeds{time})")
    return [*lines, f"Look at {paths[2]}"]
