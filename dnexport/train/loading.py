"""The training pictures of one process, step by step.

A step's batch is cut into as many micro-batches as there are processes and accumulations; each process takes its own.
All pictures come once an epoch: where the batch does not divide their number, some steps have one picture fewer.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int64
from PIL import Image

from dnexport.data.images import PixelBatch, pixels_from_file, pixels_from_image
from dnexport.data.imageset import ImageSet
from dnexport.data.workers import mapped
from dnexport.errors import DataError, UsageError
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.training import TrainingRecipe
from dnexport.train.augment import Draws, augmented, draws_for_epoch, resized_crop


@dataclass(frozen=True)
class MicroBatch:
    """Part of a step's batch.

    Attributes:
        pixels: augmented, before normalisation.
        labels: indices of classes.
        share: of the step's loss, so that the shares of all micro-batches of a step, over all processes, have mean 1.
        indices: of the pictures, for messages.
    """

    pixels: PixelBatch
    labels: Int64[np.ndarray, " batch"]
    share: float
    indices: Int64[np.ndarray, " batch"]


@dataclass(frozen=True)
class Loader:
    """Gives the epochs of a training part.

    Attributes:
        images: the training part.
        pixels: all of it decoded; None where each picture is decoded, and cut, anew.
        preprocess: of the network's input.
        recipe: of the training.
        rank: of this process.
        processes: in all.
        workers: processes that decode.
    """

    images: ImageSet
    pixels: PixelBatch | None
    preprocess: Preprocess
    recipe: TrainingRecipe
    rank: int = 0
    processes: int = 1
    workers: int = 0

    def __post_init__(self) -> None:
        micro = self.processes * self.recipe.accumulate
        smallest = len(self.images) // self.steps // micro
        if smallest < 2:
            raise UsageError(
                f"a batch of {self.recipe.batch} over {micro} micro-batches leaves {smallest} images in one, and batch "
                "norm needs 2",
                "raise --batch, or lower --accumulate or the number of processes",
            )

    @property
    def steps(self) -> int:
        """Of one epoch."""
        return -(-len(self.images) // self.recipe.batch)

    def epoch(self, epoch: int) -> Iterator[MicroBatch]:
        """This process's micro-batches, ``recipe.accumulate`` of them a step."""
        draws = draws_for_epoch(self.recipe, len(self.images), epoch)
        parts = list(self._parts(draws))
        labels = np.asarray(self.images.labels)
        for (part, share), pixels in zip(parts, self._decoded([part for part, _ in parts]), strict=True):
            yield MicroBatch(
                augmented(pixels, part, self.recipe, self.preprocess), labels[part.order], share, part.order
            )

    def _parts(self, draws: Draws) -> Iterator[tuple[Draws, float]]:
        micro = self.processes * self.recipe.accumulate
        for begin, end in _even(0, len(self.images), self.steps):
            first_of_mine = self.rank * self.recipe.accumulate
            for first, last in _even(begin, end, micro)[first_of_mine : first_of_mine + self.recipe.accumulate]:
                yield draws.part(slice(first, last)), (last - first) * micro / (end - begin)

    def _decoded(self, parts: list[Draws]) -> Iterator[PixelBatch]:
        if self.pixels is not None:
            stored = self.pixels
            return (np.asarray(stored[part.order]) for part in parts)
        decode = functools.partial(_cut_batch, preprocess=self.preprocess, cropped=self.recipe.resized_crop)
        arguments = (([self.images.pictures[i] for i in part.order], part.crop_seeds) for part in parts)
        return mapped(decode, arguments, self.workers)


def _even(begin: int, end: int, parts: int) -> list[tuple[int, int]]:
    """A range cut into parts whose sizes differ by one at most."""
    edges = [begin + (end - begin) * part // parts for part in range(parts + 1)]
    return list(itertools.pairwise(edges))


def _cut_batch(
    pictures_and_seeds: tuple[list[Path | np.ndarray], Int64[np.ndarray, " batch"]],
    preprocess: Preprocess,
    cropped: bool,
) -> PixelBatch:
    pictures, seeds = pictures_and_seeds
    whole = preprocess.model_copy(update={"resize": None}) if cropped else preprocess
    batch = []
    for picture, seed in zip(pictures, seeds, strict=True):
        cut = functools.partial(resized_crop, crop_seed=int(seed)) if cropped else None
        if isinstance(picture, Path):
            batch.append(pixels_from_file(picture, whole, cut))
        else:
            batch.append(pixels_from_image(Image.fromarray(picture), whole, cut))
    return np.stack(batch)


def check_enough(images: ImageSet, recipe: TrainingRecipe) -> None:
    """Refuse a training part that is smaller than a batch.

    Raises:
        DataError: it is.
    """
    if len(images) < recipe.batch:
        raise DataError(
            f"data {images.name} has {len(images)} training images, less than a batch of {recipe.batch}",
            "give more images or a smaller --batch",
        )
