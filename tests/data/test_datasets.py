import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dnexport.data.datasets import (
    ImageSet,
    calibration_images,
    digest_from_pixels,
    digits,
    held_out_images,
    images_from_folder,
    splits_from_source,
    synthetic,
)
from dnexport.errors import DataError
from dnexport.spec.preprocess import DIGITS, IMAGENET
from tests.conftest import SHARED
from tests.networks import TINY_PREPROCESS


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(len(str(folder)))
    for index in range(count):
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{index}.png")


def numbers(labels: tuple[int, ...]) -> ImageSet:
    pictures = [np.full((2, 2), index % 256, np.uint8) for index in range(len(labels))]
    return ImageSet("numbers", pictures, labels, tuple(map(str, range(max(labels) + 1))))


def test_digits_are_1797_stratified_80_to_20() -> None:
    splits = digits()
    assert (len(splits.train), len(splits.test)) == (1437, 360)
    share = Counter(splits.test.labels)
    assert set(share) == set(range(10))
    assert max(share.values()) - min(share.values()) <= 2


def test_digits_parts_share_no_image() -> None:
    splits = digits()
    seen = {digest_from_pixels(image) for image in splits.train.pixels(DIGITS)}
    assert not seen & {digest_from_pixels(image) for image in splits.test.pixels(DIGITS)}


def test_train_and_val_folders(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 2)):
        for name in ("cat", "dog"):
            write_images(tmp_path / part / name, count)
    splits = splits_from_source(str(tmp_path))
    assert splits.train.classes == ("cat", "dog")
    assert splits.train.labels == (0, 0, 0, 1, 1, 1)
    assert len(splits.test) == 4


def test_a_flat_folder_is_split_by_seed(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / name, 10)
    first, again, other = (splits_from_source(str(tmp_path), seed=seed) for seed in (0, 0, 1))
    assert Counter(first.test.labels) == {0: 2, 1: 2}
    assert first.test.pictures == again.test.pictures
    assert first.test.pictures != other.test.pictures
    assert not {str(p) for p in first.train.pictures} & {str(p) for p in first.test.pictures}


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


def test_synthetic_images_differ_and_repeat() -> None:
    one, two = (
        synthetic(3, TINY_PREPROCESS, 0).pixels(TINY_PREPROCESS),
        synthetic(3, TINY_PREPROCESS, 0).pixels(TINY_PREPROCESS),
    )
    np.testing.assert_array_equal(one, two)
    assert (one[0] != one[1]).any()


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


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "holds neither images nor class folders; give a folder of images"),
        (["cat"], "has no images in class 'cat'"),
    ],
)
def test_folders_without_images_are_refused(tmp_path: Path, made: list[str], message: str) -> None:
    for name in made:
        (tmp_path / name).mkdir()
    with pytest.raises(DataError, match=message):
        images_from_folder(tmp_path)


def test_images_beside_class_folders_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "data", 2)
    write_images(tmp_path / "data" / "cat", 1)
    with pytest.raises(
        DataError, match=r"2 images lie beside the class folders of .* and belong to none: 0\.png; move"
    ):
        images_from_folder(tmp_path / "data")


def test_one_image_a_class_leaves_nothing_to_test_on(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        write_images(tmp_path / name, 1)
    with pytest.raises(DataError, match="has one image a class, none is left to test on"):
        splits_from_source(str(tmp_path))


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


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; give a folder with one folder of images per class"):
        splits_from_source(str(tmp_path / "none"))


def test_parts_with_other_classes_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "train" / "cat", 1)
    write_images(tmp_path / "val" / "dog", 1)
    with pytest.raises(DataError, match="differ in the classes cat, dog"):
        splits_from_source(str(tmp_path))


def test_a_folder_of_loose_images_has_no_labels(tmp_path: Path) -> None:
    write_images(tmp_path / "photos", 10)
    splits = splits_from_source(str(tmp_path / "photos"))
    assert (len(splits.train), len(splits.test)) == (8, 2)
    assert set(splits.train.labels) == {-1}
    assert splits.train.classes == ()
    assert len(calibration_images(str(tmp_path / "photos"))) == 10
    assert len(held_out_images(str(tmp_path / "photos"))) == 10


def test_what_is_held_out_needs_no_training_part(tmp_path: Path) -> None:
    write_images(tmp_path / "val" / "cat", 3)
    assert len(held_out_images(str(tmp_path))) == 3
    write_images(tmp_path / "train" / "cat", 5)
    assert len(held_out_images(str(tmp_path))) == 3
    assert len(held_out_images("digits")) == 360


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data beside this checkout")
def test_real_imagenet_jpegs_decode(tmp_path: Path) -> None:
    with tarfile.open(SHARED / "data" / "imagenet-sample-100.tar") as archive:
        archive.extractall(tmp_path / "all", filter="data")
    assert images_from_folder(tmp_path).pixels(IMAGENET).shape == (100, 224, 224, 3)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("", "has the heading ''; write image,<class>,<class>,…"),
        ("name,a\n0.png,1", "has the heading 'name,a'"),
        ("image,a,a\n0.png,1,1", "has the heading 'image,a,a'"),
        ("image,a\n0.png,2\n1.png,0", "labels.csv, line 2: '0.png,2'; write the image and 1 of 1, 0 or nothing"),
        ("image,a\n0.png,1,0\n1.png,0", "labels.csv, line 2: '0.png,1,0'"),
        ("image,a\n0.png,1\n0.png,0", "labels.csv, line 3: a second line for that picture"),
        ("image,a\n0.png,1", "1 pictures are in only one of .* and labels.csv: 1.png; give each picture its line"),
        ("image,a\n0.png,1\n1.png,0\n2.png,1", "1 pictures are in only one of .*: 2.png"),
        ("image,a\n\xff", "cannot be read as a table"),
    ],
)
def test_a_table_of_answers_that_does_not_fit_is_refused(table: str, message: str, tmp_path: Path) -> None:
    write_images(tmp_path / "xrays", 2)
    (tmp_path / "xrays" / "labels.csv").write_bytes(table.encode("latin-1"))
    with pytest.raises(DataError, match=message):
        images_from_folder(tmp_path / "xrays")


def test_a_table_of_answers(tmp_path: Path) -> None:
    write_images(tmp_path / "xrays", 3)
    (tmp_path / "xrays" / "labels.csv").write_text("image,Mass,Nodule\n2.png,1,0\n0.png, ,1\n1.png,0,0\n")
    images = images_from_folder(tmp_path / "xrays")
    assert images.classes == ("Mass", "Nodule")
    assert images.truth().tolist() == [[-1, 1], [0, 0], [1, 0]]
    assert images.subset([2, 0]).truth().tolist() == [[1, 0], [-1, 1]]
    before = images.digest()
    (tmp_path / "xrays" / "labels.csv").write_text("image,Mass,Nodule\n2.png,1,0\n0.png,1,1\n1.png,0,0\n")
    assert images_from_folder(tmp_path / "xrays").digest() != before


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_decode_the_same_pixels_in_the_same_order(threads: int, tmp_path: Path) -> None:
    write_images(tmp_path / "cat", 11)
    images = images_from_folder(tmp_path)
    alone, together = (list(images.batches(TINY_PREPROCESS, 2, n)) for n in (0, threads))
    assert [len(batch) for batch in together] == [2] * 5 + [1]
    np.testing.assert_array_equal(np.concatenate(alone), np.concatenate(together))
    assert not images.at_hand
    assert synthetic(2, TINY_PREPROCESS).at_hand
