"""CIFAR-10 and CIFAR-100 in their binary form, and SVHN's cropped digits, as their authors publish them."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnexport.errors import DataError, TargetUnavailable

_SIDE = 32
_PIXELS = 3 * _SIDE * _SIDE


class Part(NamedTuple):
    """Pictures, uint8 [n, 32, 32, 3], and their labels, int64 [n]."""

    pixels: np.ndarray
    labels: np.ndarray


class Binary(NamedTuple):
    """A data set as its authors divide it."""

    train: Part
    test: Part
    classes: tuple[str, ...]


def reader_for(root: Path) -> Callable[[], Binary] | None:
    """What reads a folder, by the files that it holds; None for a folder of images.

    Raises:
        DataError: CIFAR in its pickled form.
    """
    for folder in (root, root / "cifar-10-batches-bin", root / "cifar-100-binary"):
        if (folder / "data_batch_1.bin").is_file():
            return functools.partial(_cifar10, folder)
        if (folder / "train.bin").is_file() and (folder / "test.bin").is_file():
            return functools.partial(_cifar100, folder)
    if (root / "train_32x32.mat").is_file():
        return functools.partial(_svhn, root)
    pickled = ("data_batch_1", "cifar-10-batches-py/data_batch_1", "cifar-100-python/train")
    if any((root / name).is_file() for name in pickled):
        raise DataError(f"data folder {root} holds CIFAR as pickles, which run code", "give its binary version")
    return None


def _cifar10(folder: Path) -> Binary:
    """Records of a label and 3072 bytes, plane by plane (https://www.cs.toronto.edu/~kriz/cifar.html)."""
    train = _joined([_records(folder / f"data_batch_{i}.bin", 1) for i in range(1, 6)])
    return _checked(folder, train, _records(folder / "test_batch.bin", 1), _names(folder / "batches.meta.txt"))


def _cifar100(folder: Path) -> Binary:
    """Records of a coarse and a fine label and 3072 bytes; the fine labels count."""
    train, test = (_records(folder / name, 2) for name in ("train.bin", "test.bin"))
    return _checked(folder, train, test, _names(folder / "fine_label_names.txt"))


def _svhn(root: Path) -> Binary:
    """Netzer et al. 2011: MATLAB files with ``X`` [32, 32, 3, n] and ``y``, in which 10 is the digit 0.

    The training part is ``train`` and, where it lies there, ``extra``, as in the DenseNet paper.
    """
    extra = [root / "extra_32x32.mat"] if (root / "extra_32x32.mat").is_file() else []
    train = _joined([_matlab(path) for path in (root / "train_32x32.mat", *extra)])
    return _checked(root, train, _matlab(root / "test_32x32.mat"), tuple("0123456789"))


def _records(path: Path, labels: int) -> Part:
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise DataError(f"{path} cannot be read: {reason}", "unpack the whole archive") from exc
    if not len(content) or len(content) % (labels + _PIXELS):
        raise DataError(
            f"{path} has {len(content):,} bytes, not a whole number of records of {labels + _PIXELS}",
            "download or unpack it again",
        )
    rows = content.reshape(-1, labels + _PIXELS)
    planes = rows[:, labels:].reshape(-1, 3, _SIDE, _SIDE)
    return Part(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), rows[:, labels - 1].astype(np.int64))


def _matlab(path: Path) -> Part:
    try:
        from scipy.io import loadmat
    except ImportError as exc:
        raise TargetUnavailable("SVHN's files need SciPy", "pip install 'dnexport[train]'") from exc
    if not path.is_file():
        raise DataError(f"{path} does not exist", "download it too")
    try:
        content = loadmat(path)
        pixels, labels = np.asarray(content["X"]), np.asarray(content["y"]).ravel().astype(np.int64)
    except Exception as exc:  # SciPy's reader raises what it likes on damaged files
        raise DataError(f"{path} is no MATLAB file with X and y", "download it again") from exc
    if pixels.ndim != 4 or pixels.shape[:3] != (_SIDE, _SIDE, 3) or len(labels) != pixels.shape[3]:
        raise DataError(f"{path} has X of {list(pixels.shape)} for {len(labels)} labels", "give SVHN's cropped digits")
    return Part(np.ascontiguousarray(pixels.transpose(3, 0, 1, 2)), labels % 10)


def _names(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path} with the class names cannot be read", "unpack the whole archive") from exc


def _joined(parts: list[Part]) -> Part:
    return Part(np.concatenate([part.pixels for part in parts]), np.concatenate([part.labels for part in parts]))


def _checked(root: Path, train: Part, test: Part, classes: tuple[str, ...]) -> Binary:
    highest = max(int(train.labels.max()), int(test.labels.max()))
    if highest >= len(classes):
        raise DataError(f"data {root} has a label {highest} and {len(classes)} class names", "download it again")
    return Binary(train, test, classes)
