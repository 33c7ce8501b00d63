"""Sets of pictures: drawn from, split, decoded."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dnexport.data.datasets import (
    images_from_folder,
    synthetic,
)
from dnexport.data.imageset import ImageSet
from dnexport.errors import DataError
from tests.data.test_datasets import write_images
from tests.networks import TINY_PREPROCESS


def numbers(labels: tuple[int, ...]) -> ImageSet:
    pictures = [np.full((2, 2), index % 256, np.uint8) for index in range(len(labels))]
    return ImageSet("numbers", pictures, labels, tuple(map(str, range(max(labels) + 1))))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70), st.integers(0, 5))
def test_a_draw_is_even_over_the_classes(labels: list[int], count: int, seed: int) -> None:
    drawn = numbers(tuple(labels)).drawn(count, seed)
    assert len(drawn) == len(set(drawn)) == min(count, len(labels))
    available, taken = Counter(labels), Counter(labels[i] for i in drawn)
    for label, number in available.items():
        # A class gives less than another only when it has no more.
        assert taken[label] == number or taken[label] >= max(taken.values()) - 1


@given(st.lists(st.integers(0, 3), min_size=4, max_size=60), st.integers(0, 5))
def test_a_split_is_disjoint_and_complete(labels: list[int], seed: int) -> None:
    whole = numbers(tuple(labels))
    first, second = whole.split(0.2, seed)
    assert Counter(first.labels) + Counter(second.labels) == Counter(labels)
    assert set(first.labels) == set(labels)
    assert {label for label, count in Counter(labels).items() if count > 1} == set(second.labels)


def test_undecodable_images_are_counted_and_named(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 3)
    write_images(tmp_path / "dog", 2)
    (tmp_path / "cat" / "1.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 image of 5 cannot be decoded: .*cat/1\.png; remove them"):
        images_from_folder(tmp_path).pixels(TINY_PREPROCESS)


def test_a_picture_of_no_known_range_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    Image.fromarray(np.full((8, 8), -1, np.float32)).save(tmp_path / "cat" / "depth.tif")
    with pytest.raises(
        DataError, match=r"1 cannot be decoded: .*depth\.tif \(an image of mode F has values from -1 to 0\)"
    ):
        images_from_folder(tmp_path).pixels(TINY_PREPROCESS)


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 2)
    (tmp_path / "cat" / "gone.png").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"gone\.png cannot be read: no such file or directory"):
        images_from_folder(tmp_path).digest()


def test_classes_must_be_the_networks() -> None:
    images = numbers((0, 1, 2))
    images.check_classes(("0", "1", "2"))
    images.check_classes(("class 0", "class 1", "class 2"))
    with pytest.raises(DataError, match="data numbers has 3 classes and the network 2"):
        images.check_classes(("0", "1"))
    with pytest.raises(
        DataError, match="data numbers has class '0' where the network has '1'; name the classes of the data"
    ):
        images.check_classes(("1", "0", "2"))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_decode_the_same_pixels_in_the_same_order(threads: int, tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 11)
    images = images_from_folder(tmp_path)
    alone, together = (list(images.batches(TINY_PREPROCESS, 2, n)) for n in (0, threads))
    assert [len(batch) for batch in together] == [2] * 5 + [1]
    np.testing.assert_array_equal(np.concatenate(alone), np.concatenate(together))
    assert not images.at_hand
    assert synthetic(2, TINY_PREPROCESS).at_hand
