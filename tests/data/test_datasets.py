import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnexport.data.datasets import (
    calibration_images,
    digits,
    held_out_images,
    images_from_folder,
    splits_from_source,
    synthetic,
)
from dnexport.data.imageset import digest_from_pixels
from dnexport.errors import DataError
from dnexport.spec.preprocess import DIGITS, IMAGENET
from tests.conftest import SHARED
from tests.networks import TINY_PREPROCESS


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True)
    generator = np.random.default_rng(len(str(folder)))
    for index in range(count):
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / f"{index}.png")


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


def test_synthetic_images_differ_and_repeat() -> None:
    one, two = (
        synthetic(3, TINY_PREPROCESS, 0).pixels(TINY_PREPROCESS),
        synthetic(3, TINY_PREPROCESS, 0).pixels(TINY_PREPROCESS),
    )
    np.testing.assert_array_equal(one, two)
    assert (one[0] != one[1]).any()


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
