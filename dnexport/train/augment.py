"""Augmentation in two halves: what happens to each picture of an epoch is drawn at once, and applied batch by batch.

Every process draws the same, from the seed and the epoch alone: nothing of it needs to be saved, and an epoch that is
resumed or shared between processes meets the same pictures.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64
from PIL import Image

from dnexport.data.images import PixelBatch
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.training import TrainingRecipe

_AREA, _RATIO, _ATTEMPTS = (0.08, 1.0), (3 / 4, 4 / 3), 10


@dataclass(frozen=True)
class Draws:
    """What is done to the pictures of an epoch, in the order in which they come.

    Attributes:
        order: indices into the training part, each once.
        mirrored: left to right.
        offsets: of the crop from the padded picture, (top, left) in pixels.
        crop_seeds: of each picture's resized crop.
    """

    order: Int64[np.ndarray, " images"]
    mirrored: Bool[np.ndarray, " images"]
    offsets: Int64[np.ndarray, "images 2"]
    crop_seeds: Int64[np.ndarray, " images"]

    def part(self, chosen: slice) -> "Draws":
        """Of some pictures."""
        return Draws(self.order[chosen], self.mirrored[chosen], self.offsets[chosen], self.crop_seeds[chosen])


def draws_for_epoch(recipe: TrainingRecipe, images: int, epoch: int) -> Draws:
    """Draw an epoch (from 0) over ``images`` pictures."""
    generator = np.random.default_rng([recipe.seed, epoch])
    order = generator.permutation(images)
    mirrored = generator.random(images) < 0.5 if recipe.mirror else np.zeros(images, bool)
    offsets = generator.integers(0, 2 * recipe.shift + 1, (images, 2))
    return Draws(order, mirrored, offsets, generator.integers(0, 2**31, images))


def augmented(pixels: PixelBatch, draws: Draws, recipe: TrainingRecipe, preprocess: Preprocess) -> PixelBatch:
    """Pictures shifted and mirrored as drawn."""
    if recipe.shift:
        pixels = _shifted(pixels, draws.offsets, recipe, preprocess)
    if recipe.mirror:
        pixels = np.where(draws.mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)
    return pixels


def resized_crop_box(width: int, height: int, crop_seed: int) -> tuple[int, int, int, int]:
    """A random part of a picture as (left, top, right, bottom), by the rule of Szegedy et al. 2015.

    Where ten draws do not fit, the largest centred part of an allowed aspect ratio.
    """
    generator = np.random.default_rng(crop_seed)
    for _ in range(_ATTEMPTS):
        area = width * height * generator.uniform(*_AREA)
        ratio = math.exp(generator.uniform(math.log(_RATIO[0]), math.log(_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(generator.integers(0, width - w + 1)), int(generator.integers(0, height - h + 1))
            return left, top, left + w, top + h
    w, h = min(width, round(height * _RATIO[1])), min(height, round(width / _RATIO[0]))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def resized_crop(image: Image.Image, crop_seed: int) -> Image.Image:
    """That part of a picture, upright as it is shown."""
    return image.crop(resized_crop_box(image.width, image.height, crop_seed))


def _shifted(
    pixels: PixelBatch, offsets: Int64[np.ndarray, "images 2"], recipe: TrainingRecipe, preprocess: Preprocess
) -> PixelBatch:
    height, width = pixels.shape[1:3]
    border = [(0, 0), (recipe.shift, recipe.shift), (recipe.shift, recipe.shift), (0, 0)]
    if recipe.border == "edge":
        padded = np.pad(pixels, border, mode="edge")
    else:
        # The paper pads after normalising, with zero: the mean colour.
        padded = np.empty((len(pixels), height + 2 * recipe.shift, width + 2 * recipe.shift, pixels.shape[3]), np.uint8)
        padded[:] = np.round(255 * np.asarray(preprocess.mean)).astype(np.uint8)
        padded[:, recipe.shift : recipe.shift + height, recipe.shift : recipe.shift + width] = pixels
    rows = offsets[:, :1] + np.arange(height)
    columns = offsets[:, 1:] + np.arange(width)
    return padded[np.arange(len(pixels))[:, None, None], rows[:, :, None], columns[:, None, :]]
