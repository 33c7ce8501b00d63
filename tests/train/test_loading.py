from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnexport.data.datasets import images_from_folder
from dnexport.data.imageset import ImageSet
from dnexport.data.stored import stored_pixels
from dnexport.errors import DataError, UsageError
from dnexport.spec.preprocess import CIFAR
from dnexport.spec.training import TrainingRecipe
from dnexport.train.loading import Loader, check_enough
from tests.data.test_datasets import write_images


def numbered(count: int) -> ImageSet:
    """Pictures whose every pixel is their own number."""
    return ImageSet(
        "numbered", [np.full((32, 32, 3), i % 256, np.uint8) for i in range(count)], tuple(range(count)), ()
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 230), st.integers(4, 70), st.integers(1, 3), st.integers(1, 3), st.integers(0, 5))
def test_each_picture_comes_once_an_epoch(images: int, batch: int, processes: int, accumulate: int, epoch: int) -> None:
    recipe = TrainingRecipe(batch=batch, accumulate=accumulate, seed=1)
    source = numbered(images)
    pixels = source.pixels(CIFAR)
    try:
        loaders = [Loader(source, pixels, CIFAR, recipe, rank, processes) for rank in range(processes)]
    except UsageError:
        assert images // -(-images // batch) // (processes * accumulate) < 2
        return
    batches = [list(loader.epoch(epoch)) for loader in loaders]
    assert {len(part) for part in batches} == {loaders[0].steps * accumulate}
    seen = np.concatenate([batch.indices for part in batches for batch in part])
    assert sorted(seen) == list(range(images))
    for part in batches:
        for micro in part:
            assert len(micro.indices) >= 2
            assert np.array_equal(micro.labels, micro.indices)
            assert np.array_equal(micro.pixels[:, 0, 0, 0], micro.indices % 256)
    shares = [micro.share for part in batches for micro in part]
    assert np.mean(shares) == pytest.approx(1)


def test_a_step_of_two_processes_is_a_step_of_two_accumulations() -> None:
    source = numbered(50)
    pixels = source.pixels(CIFAR)
    two = [Loader(source, pixels, CIFAR, TrainingRecipe(batch=8), rank, 2) for rank in (0, 1)]
    one = Loader(source, pixels, CIFAR, TrainingRecipe(batch=8, accumulate=2))
    apart = [list(loader.epoch(3)) for loader in two]
    together = list(one.epoch(3))
    for step in range(one.steps):
        for rank in (0, 1):
            assert np.array_equal(apart[rank][step].indices, together[2 * step + rank].indices)
            assert apart[rank][step].share == together[2 * step + rank].share


def test_resized_crops_are_decoded_by_processes_to_the_same_pixels(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 6)
    write_images(tmp_path / "dog", 6)
    images = images_from_folder(tmp_path)
    recipe = TrainingRecipe(batch=4, resized_crop=True, mirror=True)
    here, there = (
        np.concatenate([b.pixels for b in Loader(images, None, CIFAR, recipe, workers=workers).epoch(0)])
        for workers in (0, 2)
    )
    assert np.array_equal(here, there)
    whole = images.pixels(CIFAR)
    assert not np.array_equal(np.sort(here, axis=None), np.sort(whole, axis=None))


def test_decoded_once_mapped_from_then_on(tmp_path: Path) -> None:
    write_images(tmp_path / "data" / "cat", 5)
    write_images(tmp_path / "data" / "dog", 5)
    images = images_from_folder(tmp_path / "data")
    first = stored_pixels(images, CIFAR, tmp_path / "store", threads=2)
    assert np.array_equal(first, images.pixels(CIFAR))
    (file,) = (tmp_path / "store").iterdir()
    stamp = file.stat().st_mtime_ns
    again = stored_pixels(images_from_folder(tmp_path / "data"), CIFAR, tmp_path / "store", threads=0)
    assert isinstance(again, np.memmap)
    assert file.stat().st_mtime_ns == stamp
    (tmp_path / "data" / "cat" / "0.png").unlink()
    fewer = stored_pixels(images_from_folder(tmp_path / "data"), CIFAR, tmp_path / "store", threads=0)
    assert len(fewer) == 9


def test_an_undecodable_picture_leaves_no_store(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 3)
    (tmp_path / "cat" / "broken.jpg").write_bytes(b"\xff\xd8broken")
    with pytest.raises(DataError, match=r"1 image of 4 cannot be decoded: .*broken\.jpg"):
        stored_pixels(images_from_folder(tmp_path), CIFAR, tmp_path / "store", threads=2)
    assert not list((tmp_path / "store").iterdir())


def test_too_few_are_refused() -> None:
    with pytest.raises(DataError, match="has 7 training images, less than a batch of 8"):
        check_enough(numbered(7), TrainingRecipe(batch=8))
    with pytest.raises(UsageError, match="a batch of 8 over 6 micro-batches leaves 1 images in one"):
        Loader(numbered(64), numbered(64).pixels(CIFAR), CIFAR, TrainingRecipe(batch=8, accumulate=3), processes=2)
