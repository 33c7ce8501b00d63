"""What a training is asked for, and what it gives."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from dnexport.data.datasets import Splits
from dnexport.spec.archs import FamilyArch
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.record import digest_from_json
from dnexport.spec.training import CheckpointMetadata, EpochRow, TrainingRecipe
from dnexport.train.state import Identity


@dataclass(frozen=True)
class Job:
    """All that determines a training.

    Attributes:
        arch: the network.
        arch_name: its name, where it has one.
        splits: training and held-out part.
        preprocess: of its input.
        recipe: how.
        output: the checkpoint to write; the state, the log and the curves lie beside it.
        start: state dict to begin with; None for He initialisation.
        workers: processes that decode pictures; None is one a processor.
        accelerator: ``cpu``, ``cuda`` or ``auto``.
    """

    arch: FamilyArch
    arch_name: str | None
    splits: Splits
    preprocess: Preprocess
    recipe: TrainingRecipe
    output: Path
    start: dict[str, Tensor] | None = None
    workers: int | None = None
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def state_path(self) -> Path:
        """Of the state between epochs."""
        return self.output.with_suffix(".state")

    @property
    def log_path(self) -> Path:
        """Of the log: JSON, one line an epoch."""
        return self.output.with_suffix(".jsonl")

    @property
    def curves_path(self) -> Path:
        """Of the picture of the curves."""
        return self.output.with_suffix(".png")

    def identity(self) -> Identity:
        """What a resumed training must share with this one; how it is executed may change."""
        recipe = self.recipe.model_copy(update={"memory_efficient": False, "compile": False, "test_every": 1})
        parts = [self.splits.train.digest(), self.splits.test.digest(), self.preprocess.content_digest()]
        return Identity(self.arch, recipe, digest_from_json(parts))


@dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes:
        path: the checkpoint.
        metadata: as stored in it.
        history: every epoch.
        seconds: of this call.
    """

    path: Path
    metadata: CheckpointMetadata
    history: tuple[EpochRow, ...]
    seconds: float
