"""From a data source and an architecture's name to a trained checkpoint."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dnexport.build.network import default_preprocess
from dnexport.bundle.pack import check_outside_bundles
from dnexport.data.datasets import Splits, splits_from_source
from dnexport.errors import DataError, StorageError, UsageError
from dnexport.spec.archs import FamilyArch, arch_from_text
from dnexport.spec.preprocess import DIGITS, Preprocess
from dnexport.spec.progress import Progress
from dnexport.spec.training import TrainingRecipe
from dnexport.train.job import Job, Trained
from dnexport.train.loop import train

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class TrainingRequest:
    """What a user asks ``train`` for.

    Attributes:
        source: of the data.
        arch: a name or string form; None takes the checkpoint's.
        weights: a checkpoint to go on from.
        new_head: replace its classifier by a fresh one for the data's classes.
        recipe: how.
        output: the checkpoint to write.
        resume: go on from the state beside the output.
        workers: processes that decode pictures; None is one a processor.
        accelerator: ``cpu``, ``cuda`` or ``auto``.
    """

    source: str
    arch: str | None
    recipe: TrainingRecipe
    output: Path
    weights: Path | None = None
    new_head: bool = False
    resume: bool = False
    workers: int | None = None
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"


def train_from_data(request: TrainingRequest, progress: Progress) -> Trained:
    """Train an architecture on a data source; classes and channels follow the data.

    Raises:
        ArchError: unknown architecture.
        CheckpointError: weights to start from that do not fit strictly, the head apart where a new one is asked for.
        DataError: the data cannot be read, hold one class, or are fewer than a batch.
        UsageError: the output is no ``.safetensors`` file, or as `train` says.
        BuildFailed: the loss is not finite.
    """
    _check_request(request)
    splits = _splits(request.source)
    arch, preprocess, start = _starting_point(request, len(splits.train.classes))
    job = Job(
        arch=_with_dropout(arch, request.recipe),
        arch_name=request.arch,
        splits=splits,
        preprocess=preprocess,
        recipe=request.recipe,
        output=request.output,
        start=start,
        workers=request.workers,
        accelerator=request.accelerator,
    )
    return train(job, progress, resume=request.resume)


def _check_request(request: TrainingRequest) -> None:
    output = request.output
    if output.suffix != ".safetensors":
        raise UsageError(f"output {output} is not a .safetensors file", "write --output model.safetensors")
    if request.arch is None and request.weights is None:
        raise UsageError("neither --arch nor --weights says what to train", "give --arch NAME")
    if request.new_head and request.weights is None:
        raise UsageError("a new head replaces the one of a checkpoint, and there is none", "add --weights FILE")
    if request.arch:
        arch_from_text(request.arch)
    check_outside_bundles(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(output.parent, os.W_OK):
        raise StorageError(f"cannot write {output}: permission denied", "choose an --output you may write to")


def _splits(source: str) -> Splits:
    splits = splits_from_source(source)
    if splits.train.answers is not None:
        raise DataError(
            f"data {source} answers several questions an image, and training names one class", "give class folders"
        )
    if len(splits.train.classes) < 2:
        raise DataError(f"data {source} has fewer than two classes", "give at least two class folders")
    return splits


def _starting_point(
    request: TrainingRequest, classes: int
) -> tuple[FamilyArch, Preprocess, dict[str, "Tensor"] | None]:
    """The network, its input, and the weights it starts with: the checkpoint's, or none."""
    wanted = arch_from_text(request.arch) if request.arch else None
    stated = DIGITS if request.source == "digits" else None
    if request.weights is None:
        assert wanted is not None
        preprocess = stated or default_preprocess(wanted)
        form = {"form": "training"} if wanted.family == "condensenet" else {}
        return wanted.model_copy(update={"channels": preprocess.planes, "classes": classes, **form}), preprocess, None
    from dnexport.models.zoo import recognised_from_file

    found = recognised_from_file(request.weights, wanted, new_head=classes if request.new_head else None)
    if found.arch.classes != classes:
        raise DataError(
            f"data {request.source} has {classes} classes and checkpoint {request.weights} {found.arch.classes}",
            "add --new-head to replace its classifier",
        )
    preprocess = stated or (found.metadata.preprocess if found.metadata else default_preprocess(found.arch))
    if found.arch.channels != preprocess.planes:
        raise DataError(
            f"checkpoint {request.weights} takes {found.arch.channels} channels and data {request.source} has "
            f"{preprocess.planes}",
            "give another checkpoint",
        )
    return found.arch, preprocess, found.module.state_dict()


def _with_dropout(arch: FamilyArch, recipe: TrainingRecipe) -> FamilyArch:
    if recipe.dropout is None:
        return arch
    if recipe.dropout and arch.family == "dpn":
        raise UsageError("dpn has no dropout", "train it with --dropout 0")
    return arch.model_copy(update={"dropout": recipe.dropout})
