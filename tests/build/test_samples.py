import numpy as np
import pytest

from dnexport.build.samples import check_disjoint, data_from_recipe, golden_from_test
from dnexport.data.datasets import digest_from_pixels, digits, synthetic
from dnexport.errors import DataError, RecipeError
from dnexport.spec.preprocess import DIGITS, IMAGENET
from dnexport.spec.quantization import CalibrationSet, CalibrationTable
from dnexport.spec.recipe import Recipe

NAMES = tuple("0123456789")


def table(digests: tuple[str, ...], *, made_up: bool = False) -> CalibrationTable:
    return CalibrationTable(
        calibration_set=CalibrationSet(),
        image_digests=digests,
        graph_digest="",
        preprocess_digest="",
        synthetic=made_up,
        ranges={},
    )


def recipe(**values: object) -> Recipe:
    return Recipe(**{"name": "r", "arch": "bc-40-12", "precision": "int8", **values})


def test_test_images_that_calibrated_are_counted() -> None:
    test = digits().test
    used = tuple(digest_from_pixels(image) for image in test.pixels(DIGITS)[:3])
    check_disjoint(table(()), test, DIGITS)
    with pytest.raises(DataError, match="3 of 360 test images were used for calibration; keep the two apart"):
        check_disjoint(table(used), test, DIGITS)
    check_disjoint(table(used, made_up=True), test, DIGITS)


def test_calibration_draws_from_the_training_part_only() -> None:
    data = data_from_recipe(recipe(data="digits", calibration={"count": 100}), DIGITS, NAMES, calibrate=True)
    train = {digest_from_pixels(image) for image in digits().train.pixels(DIGITS)}
    drawn = [digest_from_pixels(image) for image in data.calibration.pixels(DIGITS)]
    assert len(set(drawn)) == 100
    assert set(drawn) <= train


def test_int8_without_images_is_refused_and_synthetic_must_be_said() -> None:
    with pytest.raises(RecipeError, match="INT8 needs images to calibrate with"):
        data_from_recipe(recipe(), IMAGENET, NAMES, calibrate=True)
    data = data_from_recipe(recipe(calibration={"data": "synthetic", "count": 4}), IMAGENET, NAMES, calibrate=True)
    assert (data.calibration.name, len(data.calibration)) == ("synthetic", 4)


def test_golden_samples_fit_into_a_bundle() -> None:
    assert golden_from_test(digits().test, DIGITS) == list(range(360))
    many = synthetic(200, DIGITS)
    kept = golden_from_test(many, IMAGENET)
    assert len(kept) == (16 << 20) // (224 * 224 * 3)
    assert kept == sorted(set(kept))
    assert np.max(kept) < 200
