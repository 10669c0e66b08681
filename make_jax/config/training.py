"""Settings of optimizer, mesh and the training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from make_jax.config.checks import at_least, is_pattern, require, share

SEEDS = 2**32  # jax would silently cut longer ones to 32 bits

_MOST_BETA2 = 0.99  # of moments kept as bfloat16

AXES = ("data", "fsdp", "tensor")
Rules = tuple[tuple[str, str], ...]

# Column-parallel in, row-parallel out: a block needs one reduction after attention and one after the MLP.
DEFAULT_RULES: Rules = (
    (r"(\bq|\bkv|qkv|up|gate_hidden)/kernel$", "fsdp tensor"),
    (r"(\bq|\bkv|qkv|up|gate_hidden)/bias$", "tensor"),
    (r"(out|down)/kernel$", "tensor fsdp"),
    (r"(tokens|\bside/\w+)/embedding$", "tensor fsdp"),
    (r"(project_\w+|query_projection|stem_\d+|regions|transform|predict|segment_\d+)/kernel$", "- fsdp"),
    (r"positions$", "- fsdp"),
    (r"", ""),
)


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up over `warmup_share` of the steps, cosine decay and clipping by global norm.

    Norms, biases, embeddings and the temperature are not decayed. `moments_dtype` is how the moments are kept between
    steps: "bfloat16" takes half the memory. It has 8 bits of precision, so that the second moment would stand still if
    a step moved it by less than that; hence it wants beta2 ≤ 0.99.

    For fine-tuning, by regular expressions that are searched for in the paths of parameters, such as
    "title/transformer/layer_0/up/kernel": what `frozen` finds stays as it is; `rates` pairs a pattern with a factor of
    the learning rate, and the first that is found counts. `layer_decay` multiplies the learning rate of a layer once
    for each layer above it and itself, so that the first ones learn slowest; heads, projections and gates keep theirs.
    """

    learning_rate: float = 1e-3
    warmup_share: float = 0.1
    final_share: float = 0.01
    weight_decay: float = 0.05
    beta1: float = 0.9
    beta2: float = 0.98
    clip_norm: float = 1.0
    moments_dtype: Literal["float32", "bfloat16"] = "float32"
    frozen: tuple[str, ...] = ()
    rates: tuple[tuple[str, float], ...] = ()
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        for key, pattern in [("frozen", p) for p in self.frozen] + [("rates", p) for p, _ in self.rates]:
            require(is_pattern(pattern), f"optimizer.{key} has {pattern!r}, but that is no regular expression")
        for pattern, factor in self.rates:
            require(
                factor > 0,
                f"optimizer.rates gives {pattern!r} {factor}, but it must be above 0; to leave parameters as they are "
                "use optimizer.frozen",
            )
        require(
            0 < self.layer_decay <= 1,
            f"optimizer.layer_decay is {self.layer_decay}, but it must be above 0 and at most 1, which is off",
        )
        require(self.learning_rate > 0, f"optimizer.learning_rate is {self.learning_rate}, but it must be above 0")
        require(self.clip_norm > 0, f"optimizer.clip_norm is {self.clip_norm}, but it must be above 0")
        at_least("optimizer", 0, weight_decay=self.weight_decay)
        require(
            self.moments_dtype == "float32" or self.beta2 <= _MOST_BETA2,
            f"optimizer.moments_dtype is {self.moments_dtype!r}, but with optimizer.beta2 {self.beta2} a step changes "
            f"the second moment by less than it can tell; set optimizer.beta2={_MOST_BETA2} or lower, or "
            "optimizer.moments_dtype=float32",
        )
        share("optimizer", beta1=self.beta1, beta2=self.beta2)
        share("optimizer", warmup_share=self.warmup_share, final_share=self.final_share)


@dataclass(frozen=True)
class MeshConfig:
    """Devices by axis: `data` and `fsdp` split the batch, `fsdp` and `tensor` split parameters.

    `data` = 0 takes every device that the other axes leave.

    `rules` say how parameters are split where that shall not be as `DEFAULT_RULES` say: pairs of a regular expression,
    searched for in paths such as "title/transformer/layers/up/kernel", and an axis for each of the last dimensions,
    "-" for none and "fsdp+tensor" for both, such as ("title/tokens/embedding$", "tensor -"). The first rule that is
    found counts, then the first of the defaults.
    """

    data: int = 0
    fsdp: int = 1
    tensor: int = 1
    rules: Rules = ()

    def __post_init__(self) -> None:
        at_least("mesh", 0, data=self.data)
        at_least("mesh", 1, fsdp=self.fsdp, tensor=self.tensor)
        for pattern, axes in self.rules:
            require(is_pattern(pattern), f"mesh.rules has {pattern!r}, but that is no regular expression")
            named = [axis for part in axes.split() if part != "-" for axis in part.split("+")]
            require(
                set(named) <= set(AXES) and len(named) == len(set(named)),
                f"mesh.rules splits {pattern!r} by {axes!r}, but a rule names each of {', '.join(AXES)} once at most, "
                "and '-' where a dimension is whole, such as 'fsdp tensor' or '- fsdp'",
            )

    def sizes(self, devices: int) -> tuple[int, int, int]:
        """(data, fsdp, tensor) on this many devices; raises UserError where they do not come out even."""
        rest = self.fsdp * self.tensor
        require(
            devices % rest == 0,
            f"mesh.fsdp {self.fsdp} × mesh.tensor {self.tensor} = {rest} does not divide the number of devices, "
            f"which is {devices}; change one of them",
        )
        data = self.data or devices // rest
        require(
            data * rest == devices,
            f"mesh.data {data} × mesh.fsdp {self.fsdp} × mesh.tensor {self.tensor} = {data * rest}, but there are "
            f"{devices} devices; set mesh.data={devices // rest}, or mesh.data=0 to take what the other axes leave",
        )
        return data, self.fsdp, self.tensor


@dataclass(frozen=True)
class TrainingConfig:
    """Length, batch and habits of a run; `batch_size` is the global number of pairs of a step.

    0 turns `eval_every` or `checkpoint_every` off but for the end of the run. A checkpoint comes before every dev
    evaluation, too. Of the checkpoints stay the last `keep_checkpoints`, for good those of steps divisible by
    `keep_every` (0: none), and the `keep_best` whose dev metric `best_metric` is the highest (`best_mode` "max") or
    lowest ("min"); one that was not evaluated is none of these.

    `ema_decay` is that of an exponential moving average of the parameters, which dev evaluation and the finished run
    then use (0: none); over the first steps it forgets faster.

    `init_from` is a run directory whose
    parameters a fresh run starts with, where path and shape are the same; DIRECTORY@STEP takes those of a checkpoint.
    `microbatches` is into how many equal parts the towers cut the batch of a step, one of which is in memory at a time;
    the contrasts are of the whole batch all the same. `negatives` is a directory that `make-jax mine` wrote, for
    objectives.hard_negatives.

    What a run does when something is wrong. A step whose loss or gradient is not finite stops it, or with `non_finite`
    "skip" leaves the model, optimizer and memory as they were and counts; more than `max_skipped` such steps in all
    stop it. `spikes` does the same with a loss or gradient norm above `spike_factor` times the median of late steps:
    "log" only says so. When the loop waits `slow_factor` times as long as it usually does, and at least `slow_seconds`,
    it says for what; a wait of `hang_seconds` ends the process (0: never). `wandb` is the project at Weights & Biases
    that gets the numbers, "" for none.
    """

    steps: int = 1000
    batch_size: int = 256
    microbatches: int = 1
    seed: int = 0
    log_every: int = 10
    eval_every: int = 0
    checkpoint_every: int = 200
    keep_checkpoints: int = 2
    keep_every: int = 0
    keep_best: int = 0
    best_metric: str = "r_precision"
    best_mode: Literal["max", "min"] = "max"
    ema_decay: float = 0.0
    eval_batch_size: int = 256
    init_from: str | None = None
    negatives: str | None = None
    non_finite: Literal["stop", "skip"] = "stop"
    spikes: Literal["off", "log", "skip"] = "log"
    spike_factor: float = 5.0
    max_skipped: int = 100
    slow_factor: float = 10.0
    slow_seconds: float = 60.0
    hang_seconds: float = 0.0
    wandb: str = ""

    def __post_init__(self) -> None:
        at_least("training", 2, batch_size=self.batch_size)
        at_least("training", 1, steps=self.steps, log_every=self.log_every, eval_batch_size=self.eval_batch_size)
        at_least("training", 1, keep_checkpoints=self.keep_checkpoints, microbatches=self.microbatches)
        at_least("training", 0, eval_every=self.eval_every, checkpoint_every=self.checkpoint_every)
        self._check_watching()
        at_least("training", 0, keep_every=self.keep_every, keep_best=self.keep_best)
        share("training", ema_decay=self.ema_decay)
        self._check_keeping()
        require(
            self.batch_size % self.microbatches == 0,
            f"training.batch_size {self.batch_size} is not divisible by training.microbatches {self.microbatches}; use "
            f"training.batch_size={max(self.batch_size // self.microbatches, 1) * self.microbatches} or another number "
            "of parts",
        )
        require(0 <= self.seed < SEEDS, f"training.seed is {self.seed}, but a seed is from 0 to {SEEDS - 1}")

    def _check_watching(self) -> None:
        at_least("training", 0, max_skipped=self.max_skipped, hang_seconds=self.hang_seconds)
        at_least("training", 1, slow_factor=self.slow_factor)
        require(
            self.spike_factor > 1,
            f"training.spike_factor is {self.spike_factor}, but half of all steps lie above the median; it must be "
            "above 1, or set training.spikes=off",
        )
        require(self.slow_seconds > 0, f"training.slow_seconds is {self.slow_seconds}, but it must be above 0")
        require(
            self.hang_seconds == 0 or self.hang_seconds >= self.slow_seconds,
            f"training.hang_seconds is {self.hang_seconds}, which is less than training.slow_seconds "
            f"{self.slow_seconds}; a wait is told before it ends the run: raise one or lower the other, or set "
            "training.hang_seconds=0",
        )

    def _check_keeping(self) -> None:
        every = self.checkpoint_every
        require(
            self.keep_every == 0 or (every > 0 and self.keep_every % every == 0),
            f"training.keep_every is {self.keep_every}, but training.checkpoint_every is {every}, so that there are no "
            "checkpoints of these steps to keep; make the former a multiple of the latter, or 0",
        )
        require(
            self.keep_best == 0 or self.eval_every > 0,
            f"training.keep_best is {self.keep_best}, but training.eval_every is 0, so that no checkpoint but the last "
            "is evaluated; set training.eval_every, or training.keep_best=0",
        )

    def check_mesh(self, data: int, fsdp: int) -> None:
        """Refuse a batch that the mesh cannot share out evenly."""
        shards = data * fsdp
        require(
            self.batch_size % shards == 0,
            f"training.batch_size {self.batch_size} is not divisible by mesh.data {data} × mesh.fsdp {fsdp} = "
            f"{shards}; use {max(self.batch_size // shards, 1) * shards} or another mesh",
        )
        part = self.batch_size // self.microbatches
        require(
            part % shards == 0,
            f"training.batch_size {self.batch_size} by training.microbatches {self.microbatches} is {part} rows, which "
            f"are not divisible by mesh.data {data} × mesh.fsdp {fsdp} = {shards}; use training.microbatches="
            f"{_divisor(self.batch_size // shards, self.microbatches)}",
        )


def _divisor(number: int, most: int) -> int:
    """The largest divisor that is at most so large."""
    return next(size for size in range(min(most, number), 0, -1) if number % size == 0)
