"""The three disjoint image sets of a build, and the golden samples drawn from the last."""

from dataclasses import dataclass
from pathlib import Path

from dnexport.calibrate.table import table_from_path
from dnexport.data.datasets import calibration_images, splits_from_source, synthetic
from dnexport.data.imageset import ImageSet
from dnexport.errors import DataError, RecipeError
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.recipe import Recipe

GOLDEN_BYTES = 16 << 20
GOLDEN_SAMPLES = 512
SYNTHETIC_SAMPLES = 32


@dataclass(frozen=True)
class BuildData:
    """What a build sees.

    Attributes:
        calibration: drawn from the training part; None where INT8 was not asked for.
        tuning: drawn behind it, where a budget decides which layers stay in float.
        test: compared with PyTorch and with labels.
    """

    calibration: ImageSet | None
    tuning: ImageSet | None
    test: ImageSet


def data_from_recipe(
    recipe: Recipe, preprocess: Preprocess, names: tuple[str, ...], *, calibrate: bool, multi_label: bool = False
) -> BuildData:
    """Open the data of a recipe.

    Raises:
        DataError: unreadable, or its classes are not the network's.
        RecipeError: INT8 without images.
    """
    splits = splits_from_source(recipe.data) if recipe.data else None
    if splits is not None:
        splits.test.check_classes(names, multi_label=multi_label)
    test = splits.test if splits else synthetic(SYNTHETIC_SAMPLES, preprocess, seed=1)
    calibration, tuning = (
        _calibration(recipe, splits.train if splits else None, preprocess) if calibrate else (None,) * 2
    )
    return BuildData(calibration, tuning, test)


def golden_from_test(test: ImageSet, preprocess: Preprocess) -> list[int]:
    """Indices of the test images that travel with the bundle: all, or an even draw within `GOLDEN_BYTES`."""
    one = preprocess.input_size[0] * preprocess.input_size[1] * preprocess.planes
    count = min(len(test), GOLDEN_SAMPLES, max(8, GOLDEN_BYTES // one))
    return sorted(test.drawn(count, seed=0))


def _calibration(recipe: Recipe, train: ImageSet | None, preprocess: Preprocess) -> tuple[ImageSet, ImageSet | None]:
    """The images that calibrate, and those that tune where a budget needs them."""
    wanted, tuning = recipe.calibration, recipe.quantization.tuning if recipe.quantization.has_budget else 0
    if recipe.calibration_table is not None:
        # The images that the table has seen, drawn again.
        seen = table_from_path(Path(recipe.calibration_table)).calibration_set
        wanted = seen.model_copy(update={"data": wanted.data or seen.data})
    if wanted.data == "synthetic":
        extra = synthetic(tuning, preprocess, seed=wanted.seed + 1) if tuning else None
        return synthetic(wanted.count, preprocess, seed=wanted.seed), extra
    if wanted.data is not None and wanted.data != recipe.data:
        train = calibration_images(wanted.data)
    if train is None and recipe.calibration_table is not None:
        raise RecipeError(
            "rounding and bias correction look at the images of the table, and none are given",
            "add --calibration-data DIR, or set rounding = 'nearest' and correct_bias = false under [quantization]",
        )
    if train is None:
        raise RecipeError(
            "INT8 needs images to calibrate with, and none are given",
            "add --data DIR or --calibration-data DIR (or, to measure latency only, --calibration-data synthetic)",
        )
    drawn = train.drawn(wanted.count + tuning, wanted.seed)
    if tuning and len(drawn) < wanted.count + 2:
        raise DataError(
            f"data {train.name} has {len(train)} images, none left to tune on behind {wanted.count} that calibrate",
            "give more images, or fewer --calibration-images",
        )
    return train.subset(drawn[: wanted.count]), train.subset(drawn[wanted.count :]) if tuning else None
