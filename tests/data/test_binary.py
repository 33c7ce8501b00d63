from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from dnexport.data.datasets import calibration_images, splits_from_source
from dnexport.errors import DataError
from dnexport.spec.preprocess import CIFAR

PICTURES = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), np.uint8)


def record(labels: list[int], picture: np.ndarray) -> bytes:
    return bytes(labels) + picture.transpose(2, 0, 1).tobytes()


@pytest.fixture
def cifar10(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for index in range(5):
        (folder / f"data_batch_{index + 1}.bin").write_bytes(record([index], PICTURES[index]))
    (folder / "test_batch.bin").write_bytes(record([9], PICTURES[5]))
    (folder / "batches.meta.txt").write_text("\n".join(f"name{i}" for i in range(10)) + "\n\n")
    return folder


@pytest.mark.parametrize("level", ["itself", "parent"])
def test_cifar10(cifar10: Path, level: str) -> None:
    splits = splits_from_source(str(cifar10 if level == "itself" else cifar10.parent))
    assert (splits.train.labels, splits.test.labels) == ((0, 1, 2, 3, 4), (9,))
    assert splits.train.classes[3] == "name3"
    assert np.array_equal(splits.train.pixels(CIFAR), PICTURES[:5])
    assert np.array_equal(splits.test.pixels(CIFAR), PICTURES[5:])
    assert len(calibration_images(str(cifar10))) == 5


def test_cifar100_counts_by_the_fine_label(tmp_path: Path) -> None:
    (tmp_path / "train.bin").write_bytes(record([1, 77], PICTURES[0]) + record([0, 3], PICTURES[1]))
    (tmp_path / "test.bin").write_bytes(record([1, 99], PICTURES[2]))
    (tmp_path / "fine_label_names.txt").write_text("\n".join(f"fine{i}" for i in range(100)))
    splits = splits_from_source(str(tmp_path))
    assert (splits.train.labels, splits.test.labels) == ((77, 3), (99,))
    assert np.array_equal(splits.train.pixels(CIFAR), PICTURES[:2])


@pytest.mark.parametrize("extra", [False, True])
def test_svhn_has_ten_for_zero(tmp_path: Path, extra: bool) -> None:
    for name, chosen, labels in (
        ("train", slice(0, 3), [10, 1, 9]),
        ("test", slice(3, 5), [2, 10]),
        ("extra", slice(5, 6), [4]),
    ):
        if name != "extra" or extra:
            savemat(
                tmp_path / f"{name}_32x32.mat",
                {"X": PICTURES[chosen].transpose(1, 2, 3, 0), "y": np.array(labels)[:, None]},
            )
    splits = splits_from_source(str(tmp_path))
    assert splits.train.labels == ((0, 1, 9, 4) if extra else (0, 1, 9))
    assert splits.test.labels == (2, 0)
    assert np.array_equal(splits.test.pixels(CIFAR), PICTURES[3:5])


def test_damaged_files_are_refused(cifar10: Path, tmp_path: Path) -> None:
    (cifar10 / "data_batch_3.bin").write_bytes(b"x" * 3000)
    with pytest.raises(DataError, match=r"data_batch_3\.bin has 3,000 bytes, not a whole number of records of 3073"):
        splits_from_source(str(cifar10))
    (cifar10 / "data_batch_3.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_3\.bin cannot be read: no such file"):
        splits_from_source(str(cifar10))
    (cifar10 / "data_batch_3.bin").write_bytes(record([10], PICTURES[0]))
    with pytest.raises(DataError, match="has a label 10 and 10 class names"):
        splits_from_source(str(cifar10))
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "data_batch_1").write_bytes(b"\x80")
    with pytest.raises(DataError, match="holds CIFAR as pickles, which run code; give its binary version"):
        splits_from_source(str(tmp_path / "pickled"))
    (tmp_path / "svhn").mkdir()
    (tmp_path / "svhn" / "train_32x32.mat").write_bytes(b"not a matrix")
    with pytest.raises(DataError, match=r"train_32x32\.mat is no MATLAB file with X and y"):
        splits_from_source(str(tmp_path / "svhn"))
