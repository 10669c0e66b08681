"""Typed, frozen configuration: what an experiment file returns and what a run directory stores.

Every section is a frozen dataclass. A section checks itself when it is made, so an impossible combination never
gets as far as the compiler. Its messages name whole keys, as `--set` takes them; a section that is used in several
places writes ".key" instead. `overrides.py`, which turns `--set a.b=c` and stored JSON into these classes, knows the
place and completes them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from make_jax.config.checks import require
from make_jax.config.compute import ComputeConfig
from make_jax.config.data import DataConfig
from make_jax.config.model import (
    SCALAR_GATES,
    FusionConfig,
    ImageConfig,
    ModelConfig,
    SideConfig,
    TextConfig,
    TransformerConfig,
)
from make_jax.config.objectives import CONTRASTS, OBJECTIVES, ObjectivesConfig
from make_jax.config.training import (
    AXES,
    DEFAULT_RULES,
    SEEDS,
    MeshConfig,
    OptimizerConfig,
    Rules,
    TrainingConfig,
)


@dataclass(frozen=True)
class Experiment:
    """All that defines a training run, besides the data."""

    name: str
    model: ModelConfig = field(default_factory=ModelConfig)
    objectives: ObjectivesConfig = field(default_factory=ObjectivesConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

    def __post_init__(self) -> None:
        require(bool(self.name.strip()), "name is empty; give the experiment a name")
        self._check_objectives()
        self._check_modalities()
        self._check_gate()

    def _check_modalities(self) -> None:
        needs_title, needs_image = (
            ("query_title", "title_image", "title_product"),
            ("query_image", "title_image", "image_product", "qim2", "mpm", "mpm_r"),
        )
        for names, there in ((needs_title, self.model.has_title), (needs_image, self.model.has_image)):
            for name in names:
                weight = getattr(self.objectives, name)
                require(
                    weight == 0 or there,
                    f"objectives.{name} is {weight}, but with model.modalities {self.model.modalities!r} there is no "
                    f"such vector; set objectives.{name}=0",
                )

    def _check_gate(self) -> None:
        weight, kind, modalities = self.objectives.gate_supervision, self.model.fusion.kind, self.model.modalities
        require(
            weight == 0 or (kind in SCALAR_GATES and modalities == "both"),
            f"objectives.gate_supervision is {weight}, but with model.fusion.kind {kind!r} and model.modalities "
            f"{modalities!r} no gate weighs title against picture; set objectives.gate_supervision=0 or "
            f"model.fusion.kind={SCALAR_GATES[0]} and model.modalities=both",
        )

    def _check_objectives(self) -> None:
        objectives, batch, image = self.objectives, self.training.batch_size, self.model.image
        require(
            objectives.memory_size % batch == 0,
            f"objectives.memory_size {objectives.memory_size} is not a multiple of training.batch_size {batch}; "
            f"it keeps whole batches: use {max(1, round(objectives.memory_size / batch)) * batch}",
        )
        for name in ("mpm", "mpm_r"):
            weight, seen = getattr(objectives, name), image.max_regions if image.stem == "regions" else image.patches
            require(
                weight == 0 or seen > 1,
                f"objectives.{name} is {weight}, but a picture is {seen} patch, so nothing is left to tell a hidden "
                f"one from; use a smaller model.image.patch or objectives.{name}=0",
            )


__all__ = [
    "AXES",
    "CONTRASTS",
    "DEFAULT_RULES",
    "OBJECTIVES",
    "SEEDS",
    "ComputeConfig",
    "DataConfig",
    "Experiment",
    "FusionConfig",
    "ImageConfig",
    "MeshConfig",
    "ModelConfig",
    "ObjectivesConfig",
    "OptimizerConfig",
    "Rules",
    "SideConfig",
    "TextConfig",
    "TrainingConfig",
    "TransformerConfig",
]
