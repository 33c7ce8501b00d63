"""From a data source and an architecture's name to a trained checkpoint."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dnexport.build.network import default_preprocess
from dnexport.data.datasets import splits_from_source
from dnexport.errors import DataError, StorageError, UsageError
from dnexport.spec.archs import FamilyArch, arch_from_text
from dnexport.spec.preprocess import DIGITS, Preprocess
from dnexport.spec.progress import Progress
from dnexport.spec.training import TrainingRecipe
from dnexport.train.job import Job, Trained
from dnexport.train.loop import train


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
    output = request.output
    if output.suffix != ".safetensors":
        raise UsageError(f"output {output} is not a .safetensors file", "write --output model.safetensors")
    if request.arch is None and request.weights is None:
        raise UsageError("neither --arch nor --weights says what to train", "give --arch NAME")
    arch = arch_from_text(request.arch) if request.arch else None
    splits = splits_from_source(request.source)
    classes = len(splits.train.classes)
    if splits.train.answers is not None:
        raise DataError(
            f"data {request.source} answers several questions an image, and training names one class",
            "give class folders",
        )
    if classes < 2:
        raise DataError(f"data {request.source} has fewer than two classes", "give at least two class folders")
    output.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(output.parent, os.W_OK):
        raise StorageError(f"cannot write {output}: permission denied", "choose an --output you may write to")
    start = None
    preprocess: Preprocess | None = DIGITS if request.source == "digits" else None
    if request.weights is not None:
        from dnexport.models.zoo import recognised_from_file

        found = recognised_from_file(request.weights, arch, new_head=classes if request.new_head else None)
        if found.arch.classes != classes:
            raise DataError(
                f"data {request.source} has {classes} classes and checkpoint {request.weights} {found.arch.classes}",
                "add --new-head to replace its classifier",
            )
        arch, start = found.arch, found.module.state_dict()
        preprocess = preprocess or (found.metadata.preprocess if found.metadata else None)
    assert arch is not None
    preprocess = preprocess or default_preprocess(arch)
    if request.weights is None:
        arch = arch.model_copy(update={"channels": preprocess.planes, "classes": classes})
        if arch.family == "condensenet":
            arch = arch.model_copy(update={"form": "training"})
    elif arch.channels != preprocess.planes:
        raise DataError(
            f"checkpoint {request.weights} takes {arch.channels} channels and data {request.source} has "
            f"{preprocess.planes}",
            "give another checkpoint",
        )
    job = Job(
        arch=_with_dropout(arch, request.recipe),
        arch_name=request.arch,
        splits=splits,
        preprocess=preprocess,
        recipe=request.recipe,
        output=output,
        start=start,
        workers=request.workers,
        accelerator=request.accelerator,
    )
    return train(job, progress, resume=request.resume)


def _with_dropout(arch: FamilyArch, recipe: TrainingRecipe) -> FamilyArch:
    if recipe.dropout is None:
        return arch
    if recipe.dropout and arch.family == "dpn":
        raise UsageError("dpn has no dropout", "train it with --dropout 0")
    return arch.model_copy(update={"dropout": recipe.dropout})
