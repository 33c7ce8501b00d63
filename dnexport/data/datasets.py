"""Where image sets come from: the handwritten digits, class folders, CIFAR and SVHN, and seeded synthetic pictures."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dnexport.data.binary import Binary, reader_for
from dnexport.data.imageset import ANSWERS, UNKNOWN_LABEL, ImageSet
from dnexport.data.synsets import (
    is_wordnet_id,
    labels_from_folders,
    labels_from_solution,
    solution_beside,
    synsets_beside,
)
from dnexport.errors import DataError, TargetUnavailable
from dnexport.spec.preprocess import Preprocess

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
_ANSWER = {"1": 1, "0": 0, "": UNKNOWN_LABEL}


@dataclass(frozen=True)
class Splits:
    """The two parts of a data source; calibration and tuning draw from the first, never from the second."""

    train: ImageSet
    test: ImageSet


def splits_from_source(source: str, *, seed: int = 0) -> Splits:
    """Open ``digits`` or a folder.

    A folder holds CIFAR or SVHN as `binary` reads them, or ``train`` and ``val`` or ``test``, each as
    `images_from_folder` reads them; any other folder is split 80/20 by ``seed``.

    Raises:
        DataError: no such folder, nothing in it, an empty class, or classes that differ between the parts.
    """
    held = _held(source)
    if held is not None:
        return held
    parts = _parts(Path(source))
    if parts is None:
        split = Splits(*images_from_folder(Path(source)).split(0.2, seed))
        if not len(split.test):
            raise DataError(f"data folder {source} has one image a class, none is left to test on", "add images")
        return split
    splits = Splits(*map(images_from_folder, parts))
    if splits.train.classes != splits.test.classes:
        odd = sorted(set(splits.train.classes) ^ set(splits.test.classes))
        raise DataError(
            f"{parts[0]} and {parts[1]} differ in the classes {', '.join(odd[:5])}", "give both the same folders"
        )
    return splits


def calibration_images(source: str) -> ImageSet:
    """All that a source offers for calibration: its training part, or the whole of a folder without parts.

    Raises:
        DataError: as `splits_from_source`.
    """
    held = _held(source)
    if held is not None:
        return held.train
    parts = _parts(Path(source))
    return images_from_folder(parts[0] if parts else Path(source))


def held_out_images(source: str) -> ImageSet:
    """All that a source offers for testing: its held-out part, or the whole of a folder without parts.

    Raises:
        DataError: as `images_from_folder`.
    """
    held = _held(source)
    if held is not None:
        return held.test
    root = Path(source)
    return images_from_folder(_held_out(root) or root)


def _held(source: str) -> Splits | None:
    """The parts of the digits and of binary data, which are no folders of pictures."""
    if source == "digits":
        return digits()
    read = reader_for(Path(source))
    return None if read is None else _from_binary(source, read())


def images_from_folder(root: Path) -> ImageSet:
    """``root/<class>/*.jpg``, classes in alphabetical order; or ``root/*.jpg``, with ``root/labels.csv`` or unlabelled.

    Class folders named by WordNet ids have the indices of the synset map in ``root`` or above it, and all of its
    classes; ``root/ILSVRC2012_val_*.JPEG`` too, with Kaggle's ``LOC_val_solution.csv`` there.

    ``labels.csv`` answers several questions of each picture: a heading ``image,<question>,…``, then a line a picture
    with its file name and 1, 0 or nothing (unknown) for each.

    Raises:
        DataError: unreadable, no images, a class without images, images beside class folders, or a table or a synset
            map that does not fit the pictures.
    """
    try:
        folders = sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
        found = {folder.name: _images_in(folder) for folder in folders}
        loose = _images_in(root)
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise DataError(f"data folder {root} cannot be read: {reason}", "check its permissions") from exc
    if not folders and loose and (root / ANSWERS).is_file():
        return _answered(root, loose)
    if not folders and loose and (solution := solution_beside(root)) is not None:
        synsets = synsets_beside(root)
        answers = labels_from_solution(solution, loose, synsets)
        return ImageSet(str(root), loose, tuple(answers), synsets.names if synsets else (), synsets=synsets)
    if not folders and loose:
        return ImageSet(str(root), loose, (UNKNOWN_LABEL,) * len(loose), ())
    if not folders:
        remedy = "give a folder of images, or of one folder of images per class"
        raise DataError(f"data folder {root} holds neither images nor class folders", remedy)
    if loose:
        what = f"{len(loose)} images lie beside the class folders of {root} and belong to none: {loose[0].name}"
        raise DataError(what, "move them into class folders, or elsewhere")
    empty = [name for name, images in found.items() if not images]
    if empty:
        raise DataError(f"data folder {root} has no images in class '{empty[0]}'", "add images or remove the folder")
    pictures = [path for images in found.values() for path in images]
    synsets = synsets_beside(root) if any(map(is_wordnet_id, found)) else None
    indices = range(len(found)) if synsets is None else labels_from_folders(list(found), synsets, str(root))
    labels = tuple(label for label, images in zip(indices, found.values(), strict=True) for _ in images)
    return ImageSet(str(root), pictures, labels, synsets.names if synsets else tuple(found), synsets=synsets)


def _from_binary(source: str, found: Binary) -> Splits:
    train, test = (
        ImageSet(source, list(part.pixels), tuple(part.labels.tolist()), found.classes)
        for part in (found.train, found.test)
    )
    return Splits(train, test)


def _answered(root: Path, pictures: list[Path]) -> ImageSet:
    table = root / ANSWERS
    try:
        rows = list(csv.reader(table.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as exc:
        raise DataError(f"{table} cannot be read as a table", "write it as comma-separated UTF-8 text") from exc
    heading = [name.strip() for name in rows[0]] if rows else []
    if len(heading) < 2 or heading[0].lower() != "image" or len(set(heading)) != len(heading):
        raise DataError(f"{table} has the heading {','.join(heading)[:80]!r}", "write image,<class>,<class>,…")
    answers: dict[str, list[int]] = {}
    for number, row in enumerate(rows[1:], start=2):
        cells = [cell.strip() for cell in row]
        if len(cells) != len(heading) or not set(cells[1:]) <= set(_ANSWER) or cells[0] in answers:
            what = "a second line for that picture" if cells and cells[0] in answers else f"{','.join(cells)[:80]!r}"
            raise DataError(
                f"{table}, line {number}: {what}", f"write the image and {len(heading) - 1} of 1, 0 or nothing"
            )
        answers[cells[0]] = [_ANSWER[cell] for cell in cells[1:]]
    odd = sorted({path.name for path in pictures} ^ answers.keys())
    if odd:
        what = f"{len(odd)} pictures are in only one of {root} and {table.name}: {', '.join(odd[:3])}"
        raise DataError(what, "give each picture its line")
    unknown = (UNKNOWN_LABEL,) * len(pictures)
    matrix = np.asarray([answers[path.name] for path in pictures], np.int8)
    return ImageSet(str(root), pictures, unknown, tuple(heading[1:]), matrix)


def digits() -> Splits:
    """scikit-learn's 1,797 handwritten digits (UCI), 8×8 in 17 grey levels, stratified 80/20 with a fixed seed.

    Raises:
        TargetUnavailable: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as exc:
        raise TargetUnavailable("data 'digits' needs scikit-learn", "pip install 'dnexport[train]'") from exc
    source = load_digits()
    grey = np.asarray(source.images / 16.0 * 255.0).round().astype(np.uint8)
    labels = np.asarray(source.target)
    parts = train_test_split(np.arange(len(labels)), test_size=360, stratify=labels, random_state=0)
    classes = tuple(str(name) for name in source.target_names)
    train, test = (
        ImageSet("digits", [grey[i] for i in sorted(part)], tuple(int(labels[i]) for i in sorted(part)), classes)
        for part in parts
    )
    return Splits(train, test)


def synthetic(count: int, preprocess: Preprocess, seed: int = 0) -> ImageSet:
    """Seeded smooth colour fields, so that a network of random weights answers differently to each.

    White noise would not do: after the first pooling all noise images look alike.
    """
    generator = np.random.default_rng(seed)
    height, width = preprocess.input_size
    pictures = []
    for _ in range(count):
        coarse = generator.integers(0, 256, (int(generator.integers(2, 9)), int(generator.integers(2, 9)), 3), np.uint8)
        pictures.append(np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)))
    return ImageSet("synthetic", pictures, (UNKNOWN_LABEL,) * count, ())


def _parts(root: Path) -> tuple[Path, Path] | None:
    """The training part and the held-out part of a folder that has both."""
    held_out = _held_out(root)
    if (root / "train").is_dir() and held_out is None:
        raise DataError(f"data folder {root} has train/ but neither val/ nor test/", "add the held-out part")
    return (root / "train", held_out) if (root / "train").is_dir() and held_out else None


def _held_out(root: Path) -> Path | None:
    if not root.is_dir():
        raise DataError(f"data folder {root} does not exist", "give a folder with one folder of images per class")
    return next((root / name for name in ("val", "test") if (root / name).is_dir()), None)


def _images_in(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")
    )
