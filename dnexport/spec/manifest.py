"""``bundle.json``: what a bundle is, where it comes from, and the digest of each of its files."""

from typing import Literal

from pydantic import model_validator

from dnexport.spec.archs import Arch
from dnexport.spec.metrics import Environment
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.quantization import CalibrationSet, Placement, Trial
from dnexport.spec.recipe import Recipe
from dnexport.spec.record import Record

SCHEMA = 2


class Weights(Record):
    """Where the weights come from.

    Attributes:
        source: ``file``, ``pretrained``, ``random``, ``factory``: as the user's own function makes them, or ``graph``:
            those of a foreign ONNX file.
        file: name of the file, without its folder.
        digest: SHA-256 of the file, or of the seed and architecture of random weights.
        trained: False stamps the bundle *untrained*: latency and parity only.
    """

    source: Literal["file", "pretrained", "random", "factory", "graph"]
    file: str | None
    digest: str
    trained: bool


class Golden(Record):
    """The samples that travel with the bundle.

    Attributes:
        source: the data they were drawn from, or ``synthetic``.
        samples: how many.
        labelled: how many have a label.
        test_digest: of the whole test set that they were drawn from and that engines were validated on.
    """

    source: str
    test_digest: str
    samples: int
    labelled: int


class ReferenceRun(Record):
    """The PyTorch run that every engine is compared with."""

    form: str
    threads: int
    top1: float | None
    samples: int


class CalibrationSummary(Record):
    """What calibrated an INT8 bundle, and how it was quantized; the rest is in ``calibration.json`` and ``plan.json``.

    Attributes:
        calibration_set: the recipe of the images.
        images: seen.
        tensors: whose ranges are known.
        synthetic: no real image was seen.
        placement: what is held in int8.
        layers: that could be.
        kept: of these, in float.
        trials: of the placements, where they were tried.
        measured_on: the target on which.
    """

    calibration_set: CalibrationSet
    images: int
    tensors: int
    synthetic: bool
    placement: Placement
    layers: int
    kept: int
    trials: tuple[Trial, ...]
    measured_on: str | None


class StageRun(Record):
    """How long a stage took, and whether its result was taken from an earlier build."""

    seconds: float
    reused: bool


class Manifest(Record):
    """The content of ``bundle.json``.

    Attributes:
        schema_version: of this record.
        name: of the bundle.
        recipe: as resolved: rebuilding from it gives this bundle.
        arch: the network.
        arch_name: its name, where it has one.
        preprocess: pinned for every user of the bundle.
        assumed: which parts of the preprocessing neither a flag nor the checkpoint stated.
        class_names: one a class.
        multi_label: each class is a question of its own (a sigmoid each), not one of several.
        weights: their source.
        golden: the samples.
        reference: the PyTorch run.
        calibration: INT8 only.
        targets: directory below ``targets/`` by string form; its ``report.json`` is a `TargetReport`.
        stages: of the build that made the bundle.
        environment: the machine it was made on.
        warnings: as printed by that build.
        files: SHA-256 by path, relative to the bundle, of all files but this one.
    """

    schema_version: int = SCHEMA
    name: str
    recipe: Recipe
    arch: Arch
    arch_name: str | None
    preprocess: Preprocess
    assumed: tuple[str, ...]
    class_names: tuple[str, ...]
    multi_label: bool = False
    weights: Weights
    golden: Golden
    reference: ReferenceRun
    calibration: CalibrationSummary | None
    targets: dict[str, str]
    stages: dict[str, StageRun]
    environment: Environment
    warnings: tuple[str, ...]
    files: dict[str, str]

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> "Manifest":
        if len(self.class_names) != self.arch.classes or self.preprocess.planes != self.arch.channels:
            raise ValueError("class_names and preprocess fit the arch")
        return self
