from pathlib import Path

import numpy as np
import pytest

from dnexport.build.samples import data_from_recipe, golden_from_test
from dnexport.data.datasets import digits, synthetic
from dnexport.data.disjoint import check_disjoint
from dnexport.data.imageset import digest_from_pixels
from dnexport.errors import DataError, RecipeError
from dnexport.spec.preprocess import CIFAR, DIGITS, IMAGENET
from dnexport.spec.quantization import CalibrationSet, CalibrationTable
from dnexport.spec.recipe import Recipe
from tests.data.test_datasets import write_images

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


def test_tuning_images_are_drawn_behind_those_that_calibrate(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / "train" / name, 20)
        write_images(tmp_path / "val" / name, 4)
    fields = {
        "name": "r",
        "arch": "densenet-bc-40-12",
        "weights": "random",
        "classes": 2,
        "data": str(tmp_path),
        "precision": "int8",
    }
    tuned = Recipe(**fields, calibration={"count": 16}, quantization={"min_snr": 20, "tuning": 8})
    plain = Recipe(**fields, calibration={"count": 16})
    names = ("cat", "dog")
    with_budget, without = (data_from_recipe(r, CIFAR, names, calibrate=True) for r in (tuned, plain))
    assert without.tuning is None
    assert with_budget.calibration is not None
    assert with_budget.tuning is not None
    assert without.calibration is not None
    assert with_budget.calibration.pictures == without.calibration.pictures
    assert (len(with_budget.calibration), len(with_budget.tuning)) == (16, 8)
    assert not set(map(str, with_budget.calibration.pictures)) & set(map(str, with_budget.tuning.pictures))
    greedy = Recipe(**fields, calibration={"count": 40}, quantization={"min_snr": 20})
    with pytest.raises(DataError, match="has 40 images, none left to tune on behind 40 that calibrate"):
        data_from_recipe(greedy, CIFAR, names, calibrate=True)
    with pytest.raises(ValueError, match="a budget or a plan is for int8, not for fp16; add --int8"):
        Recipe(**{**fields, "precision": "fp16"}, quantization={"min_snr": 20})
