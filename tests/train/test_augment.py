import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dnexport.spec.preprocess import CIFAR
from dnexport.spec.training import TrainingRecipe
from dnexport.train.augment import augmented, draws_for_epoch, resized_crop, resized_crop_box

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)


def test_an_epoch_is_drawn_from_seed_and_number_alone() -> None:
    recipe = TrainingRecipe(mirror=True, shift=4, seed=3)
    first, again, next_epoch = (draws_for_epoch(recipe, 100, epoch) for epoch in (0, 0, 1))
    other = draws_for_epoch(recipe.model_copy(update={"seed": 4}), 100, 0)
    assert all(np.array_equal(getattr(first, name), getattr(again, name)) for name in vars(first))
    assert not np.array_equal(first.order, next_epoch.order)
    assert not np.array_equal(first.order, other.order)
    assert sorted(first.order) == list(range(100))
    assert 20 < first.mirrored.sum() < 80
    assert first.offsets.min() == 0
    assert first.offsets.max() == 8


@pytest.mark.parametrize("border", ["edge", "mean"])
def test_each_picture_is_shifted_and_mirrored_as_drawn(border: str) -> None:
    recipe = TrainingRecipe(mirror=True, shift=3, border=border)
    draws = draws_for_epoch(recipe, 6, 0)
    got = augmented(PIXELS, draws, recipe, CIFAR)
    for i, pixels in enumerate(PIXELS):
        if border == "edge":
            padded = np.pad(pixels, ((3, 3), (3, 3), (0, 0)), mode="edge")
        else:
            padded = np.empty((38, 38, 3), np.uint8)
            padded[:] = np.round(255 * np.array(CIFAR.mean))
            padded[3:35, 3:35] = pixels
        top, left = draws.offsets[i]
        wanted = padded[top : top + 32, left : left + 32]
        assert np.array_equal(got[i], wanted[:, ::-1] if draws.mirrored[i] else wanted)


def test_nothing_asked_nothing_done() -> None:
    recipe = TrainingRecipe()
    assert np.array_equal(augmented(PIXELS, draws_for_epoch(recipe, 6, 0), recipe, CIFAR), PIXELS)


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(0, 2**31 - 1))
def test_a_resized_crop_lies_inside(width: int, height: int, seed: int) -> None:
    left, top, right, bottom = resized_crop_box(width, height, seed)
    assert 0 <= left < right <= width
    assert 0 <= top < bottom <= height


def test_resized_crops_cover_what_the_rule_says() -> None:
    boxes = [resized_crop_box(500, 400, seed) for seed in range(2000)]
    areas = np.array([(r - l) * (b - t) / 200_000 for l, t, r, b in boxes])  # noqa: E741
    ratios = np.array([(r - l) / (b - t) for l, t, r, b in boxes])  # noqa: E741
    assert 0.075 < areas.min() < 0.1
    assert 0.9 < areas.max() <= 1
    assert 0.74 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.35
    assert resized_crop(Image.new("RGB", (500, 400)), 1).size != (500, 400)
