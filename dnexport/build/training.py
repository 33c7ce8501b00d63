"""From a data source and an architecture's name to a trained checkpoint."""

import os
from pathlib import Path

from dnexport.data.datasets import splits_from_source
from dnexport.errors import DataError, StorageError, UsageError
from dnexport.models.train import Trained, train
from dnexport.spec.archs import arch_from_text
from dnexport.spec.preprocess import DIGITS
from dnexport.spec.progress import Progress
from dnexport.spec.training import TrainingRecipe


def train_from_data(source: str, arch_name: str, recipe: TrainingRecipe, output: Path, progress: Progress) -> Trained:
    """Train a named architecture on a data source; classes and channels follow the data.

    Raises:
        ArchError: unknown architecture.
        DataError: the data cannot be read, hold one class, or are fewer than a batch.
        UsageError: the output is no ``.safetensors`` file.
        BuildFailed: the loss is not finite.
    """
    if output.suffix != ".safetensors":
        raise UsageError(f"output {output} is not a .safetensors file", "write --output model.safetensors")
    arch = arch_from_text(arch_name)
    splits = splits_from_source(source)
    if len(splits.train.classes) < 2:
        raise DataError(f"data {source} has fewer than two classes", "give at least two class folders")
    if len(splits.train) < recipe.batch:
        raise DataError(
            f"data {source} has {len(splits.train)} training images, less than a batch of {recipe.batch}",
            "give more images or a smaller --batch",
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(output.parent, os.W_OK):
        raise StorageError(f"cannot write {output}: permission denied", "choose an --output you may write to")
    preprocess = DIGITS if source == "digits" else arch.preprocess
    # A picture that cannot be decoded is found now, not when the network is trained and tested.
    for _ in splits.test.batches(preprocess, 256):
        pass
    arch = arch.model_copy(update={"channels": preprocess.planes, "classes": len(splits.train.classes)})
    return train(arch, arch_name, splits, preprocess, recipe, output, progress)
