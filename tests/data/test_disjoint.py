"""Images that have tuned a plan must not judge it."""

import numpy as np
import pytest

from dnexport.data.datasets import synthetic
from dnexport.data.disjoint import check_apart
from dnexport.data.imageset import ImageSet
from dnexport.errors import DataError
from tests.networks import TINY_PREPROCESS


def pictures(name: str, *seeds: int) -> ImageSet:
    made = [np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8) for seed in seeds]
    return ImageSet(name, made, (0,) * len(made), ("a",))


def test_tuning_images_are_not_test_images() -> None:
    check_apart(pictures("tuning", 1, 2), pictures("test", 3, 4), TINY_PREPROCESS)
    with pytest.raises(DataError, match="2 of 3 test images are tuning images too; keep the two apart"):
        check_apart(pictures("tuning", 1, 2, 3), pictures("test", 3, 4, 1), TINY_PREPROCESS)


def test_synthetic_images_judge_nothing() -> None:
    made = synthetic(4, TINY_PREPROCESS)
    check_apart(made, made, TINY_PREPROCESS)
