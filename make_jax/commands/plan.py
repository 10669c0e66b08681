"""`make-jax plan`: what training would need and take on a TPU slice, told by the compiler before there is one."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from make_jax.config import Experiment
from make_jax.errors import UserError
from make_jax.overrides import apply_overrides, load_experiment
from make_jax.planning.chips import parse_slice
from make_jax.planning.jobs import Compiled, Job, to_json
from make_jax.planning.page import Planned

log = logging.getLogger(__name__)


class CompilerFailed(Exception):
    """The compiler ended without an answer; says what it printed last. `plans` are those before it."""

    def __init__(self, message: str, plans: list[Planned]) -> None:
        super().__init__(message)
        self.plans = plans


def plan(
    experiment: Path,
    topology: str,
    compare: Sequence[str] = (),
    overrides: Sequence[str] = (),
    data: Sequence[str] = (),
    vocab_size: int | None = None,
    pairs: int | None = None,
) -> list[Planned]:
    """Compile an experiment for a slice, and for each of those to compare it with.

    Args:
      experiment: a file.
      topology: such as "v5e:16x16".
      compare: each another slice, settings "a.b=c", or both, with commas between.
      overrides: settings of all.
      data: prepared, for the vocabulary and what else data decide.
      vocab_size: in its place.
      pairs: to train on in all; None for batch size × steps.

    Raises:
      UserError, DataError: what does not exist or does not fit together.
      CompilerFailed: for no reason that the user could mend.
    """
    base = _complete(load_experiment(experiment, overrides), data, vocab_size)
    tpu = importlib.util.find_spec("libtpu") is not None
    jobs = [_job(base, topology, "", tpu), *(_job(base, topology, choice, tpu) for choice in compare)]
    log.info("compiling %s; this may take minutes", "for the TPU" if tpu else "on the CPU")
    places = [parse_slice(job.topology) for job in jobs]
    compiled, failure = _compile(jobs, max(place.chips for place in places))
    pairs = pairs or base.training.batch_size * base.training.steps
    plans = [Planned(job, place, one, pairs) for job, place, one in zip(jobs, places, compiled, strict=False)]
    if failure:
        raise CompilerFailed(failure, plans)
    return plans


def _complete(experiment: Experiment, data: Sequence[str], vocab_size: int | None) -> Experiment:
    """Fill in what data decide."""
    if data and vocab_size:
        raise UserError(f"--vocab-size {vocab_size} and --data {data[0]}: the data know it; leave --vocab-size out")
    if data:
        from make_jax.commands.feeding import open_training_data
        from make_jax.commands.train import complete

        opened, _ = open_training_data(data)
        return complete(experiment, opened)
    model = experiment.model
    size = vocab_size or model.vocab_size
    if size is None:
        raise UserError("model.vocab_size is not set; give --vocab-size N, or --data to know it from")
    if model.image.stem == "regions" and model.image.region_width is None:
        raise UserError(
            "model.image.region_width is not set; give --set model.image.region_width=N, or --data to know it from"
        )
    return dataclasses.replace(experiment, model=dataclasses.replace(model, vocab_size=size))


def _job(base: Experiment, topology: str, choice: str, tpu: bool) -> Job:
    """One way to train: "v5p:4x4x8,mesh.fsdp=8"; "" is the base."""
    # A comma that begins no setting or slice belongs to the value before it.
    parts = [part.strip() for part in re.split(r",(?=[\w.]+=|v\d\w*:)", choice) if part.strip()]
    settings = [part for part in parts if "=" in part]
    slices = [part for part in parts if "=" not in part]
    if len(slices) > 1:
        raise UserError(f"--compare {choice}: names {len(slices)} slices; give each a --compare of its own")
    place = parse_slice(slices[0] if slices else topology)
    experiment = apply_overrides(base, settings)
    shape = experiment.mesh.sizes(place.chips)
    experiment.training.check_mesh(shape[0], shape[1])
    return Job(" ".join([place.name, *settings]), experiment, place.name, tpu)


def _compile(jobs: Sequence[Job], chips: int) -> tuple[list[Compiled], str]:
    """What came of the jobs, and why there is no more of it; "" if there is."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",  # where the few things that are computed are computed
        "TPU_SKIP_MDS_QUERY": "1",  # there is no TPU to ask about itself
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing is driven that two processes might not share
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if not jobs[0].tpu:
        # The program is never run, so its machine code may be as it comes.
        environment["XLA_FLAGS"] = (
            f"--xla_force_host_platform_device_count={chips} --xla_backend_optimization_level=0 "
            "--xla_llvm_disable_expensive_passes=true"
        )
    done = subprocess.run(
        [sys.executable, "-m", "make_jax.planning.worker"],
        input=json.dumps([to_json(job) for job in jobs]),
        env=environment,
        capture_output=True,
        text=True,
    )
    answers: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    for job, answer in zip(jobs, answers, strict=False):
        if "error" in answer:
            raise UserError(f"{job.label}: {answer['error']}" if len(jobs) > 1 else answer["error"])
    failure = ""
    if len(answers) < len(jobs):
        last = "\n".join(done.stderr.strip().splitlines()[-20:])
        failure = f"{jobs[len(answers)].label}: the compiler ended with code {done.returncode}:\n{last}"
    return [Compiled.from_json(answer["compiled"]) for answer in answers], failure


def as_json(plans: Sequence[Planned]) -> str:
    """Everything that is known of plans, and the times that follow from it."""
    from make_jax.planning.estimates import roofline, speed

    found = []
    for job, place, compiled, pairs in plans:
        busy, batch = roofline(compiled.train, place.chip), job.experiment.training.batch_size
        times = None
        if compiled.train.fits:
            best = speed(compiled, busy.seconds, place.chip, place.chips, batch, pairs)
            times = {**busy._asdict(), "seconds": busy.seconds, "bound": busy.bound, **best._asdict()}
        chip = dataclasses.asdict(place.chip)
        record = {"label": job.label, "topology": place.name, "chips": place.chips, "chip": chip, "rough": not job.tpu}
        found.append(record | {"batch_size": batch, "pairs": pairs, **to_json(compiled), "at_best": times})
    return json.dumps(found, indent=2)
