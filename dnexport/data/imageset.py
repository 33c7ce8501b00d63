"""Pictures with labels; what they are is known without decoding anything, and they are decoded batch by batch."""

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from dnexport.data.images import PixelBatch, Pixels, pixels_from_file, pixels_from_image
from dnexport.data.synsets import LINES, Synsets, is_wordnet_id
from dnexport.data.workers import default_workers, threaded
from dnexport.errors import DataError
from dnexport.spec.preprocess import Preprocess

UNKNOWN_LABEL = -1
ANSWERS = "labels.csv"


@dataclass(frozen=True)
class ImageSet:
    """Pictures with labels.

    Attributes:
        name: for messages and reports.
        pictures: a path, or the 8-bit pixels themselves (height × width grey, or height × width × 3).
        labels: one a picture, an index into ``classes``; −1 where unknown.
        classes: names, empty where there are no labels.
        answers: instead of labels, where each class is a question of its own: int8 [pictures, classes], 1 yes, 0 no,
            −1 unknown.
        synsets: where a synset map says what the classes are.
    """

    name: str
    pictures: Sequence[Path | np.ndarray]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    answers: np.ndarray | None = None
    synsets: Synsets | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def subset(self, indices: Sequence[int]) -> "ImageSet":
        """The pictures at ``indices``, in that order."""
        chosen = [self.pictures[i] for i in indices]
        answers = None if self.answers is None else self.answers[list(indices)]
        return replace(self, pictures=chosen, labels=tuple(self.labels[i] for i in indices), answers=answers)

    def truth(self) -> np.ndarray:
        """What is known: the labels, int64 [pictures], or the answers, int8 [pictures, classes]; −1 where unknown."""
        return np.asarray(self.labels, np.int64) if self.answers is None else self.answers

    @property
    def at_hand(self) -> bool:
        """No picture lies in a file."""
        return not any(isinstance(picture, Path) for picture in self.pictures)

    def batches(self, preprocess: Preprocess, size: int, threads: int | None = None) -> Iterator[PixelBatch]:
        """Decoded pictures in order, ``size`` at a time, the rest last.

        Args:
            preprocess: what is made of them.
            size: of a batch.
            threads: that decode, ahead of whoever takes the batches; None is one a processor for files; 0 is none.

        Raises:
            DataError: pictures that cannot be decoded: all of the set are counted, the first ones named.
        """
        decode = functools.partial(_decoded_batch, preprocess=preprocess)
        broken: list[_Broken] = []
        if threads is None:
            threads = 0 if self.at_hand else default_workers()
        for decoded in threaded(decode, self._chunks(size), threads):
            if isinstance(decoded, np.ndarray) and not broken:
                yield decoded
            elif not isinstance(decoded, np.ndarray):
                broken += decoded
        if broken:
            raise _undecodable(broken, len(self))

    def _chunks(self, size: int) -> Iterator[Sequence[Path | np.ndarray]]:
        return (self.pictures[start : start + size] for start in range(0, len(self), size))

    def pixels(self, preprocess: Preprocess) -> PixelBatch:
        """All pictures at once."""
        empty = np.empty((0, *preprocess.input_size, preprocess.planes), np.uint8)
        return np.concatenate([empty, *self.batches(preprocess, 256)])

    def digest(self) -> str:
        """SHA-256 over the pictures' bytes, the labels and the classes: the set's identity in stage digests.

        Raises:
            DataError: a picture cannot be read.
        """
        return self._digest

    @functools.cached_property
    def _digest(self) -> str:
        # Asked for by several stages; reading every picture once is enough.
        state = hashlib.sha256(repr((self.labels, self.classes)).encode())
        state.update(self.truth().tobytes())
        for picture in self.pictures:
            state.update(_bytes(picture))
        return state.hexdigest()

    def check_classes(self, names: Sequence[str], *, multi_label: bool = False) -> None:
        """Refuse labels that mean something else to a network with the classes ``names``.

        Raises:
            DataError: another number of classes, or other names than the network's, where it has names.
        """
        if multi_label and self.classes and self.answers is None:
            raise DataError(
                f"data {self.name} has one label an image and the network answers several questions at once",
                f"give a folder of images with a {ANSWERS}",
            )
        if self.answers is not None and not multi_label:
            raise DataError(
                f"data {self.name} answers several questions an image and the network names one class",
                "give a folder of class folders",
            )
        if self.classes and len(self.classes) != len(names):
            raise DataError(
                f"data {self.name} has {len(self.classes)} classes and the network {len(names)}",
                "give the data that it was trained on",
            )
        if not self.classes or tuple(names) == nameless_classes(len(names)):
            return
        if (odd := self._misnamed(names)) is not None:
            unmapped = self.synsets is None and is_wordnet_id(self.classes[odd])
            raise DataError(
                f"data {self.name} has class '{self.classes[odd]}' where the network has '{names[odd]}'",
                f"put {LINES[0]} beside the data" if unmapped else "name the classes of the data as the network's",
            )

    def _misnamed(self, names: Sequence[str]) -> int | None:
        """The first class that has another name in the network."""
        if self.synsets is not None:
            return self.synsets.misnamed(names)
        return next(
            (i for i, (mine, theirs) in enumerate(zip(self.classes, names, strict=True)) if mine != theirs), None
        )

    def draw(self, count: int, seed: int) -> "ImageSet":
        """``count`` pictures drawn evenly over the classes, without replacement, in a seeded order."""
        return self.subset(self.drawn(count, seed))

    def drawn(self, count: int, seed: int) -> list[int]:
        """The indices of `draw`."""
        generator = np.random.default_rng(seed)
        by_class = [list(generator.permutation(members)) for members in _members(self.labels).values()]
        drawn: list[int] = []
        while len(drawn) < min(count, len(self)):
            for members in by_class:
                if members and len(drawn) < count:
                    drawn.append(int(members.pop()))
        return drawn

    def split(self, second_share: float, seed: int) -> tuple["ImageSet", "ImageSet"]:
        """Two disjoint parts, stratified by class; the second holds ``second_share`` of each class, at least one image.

        A class of one image stays in the first part.
        """
        generator = np.random.default_rng(seed)
        first: list[int] = []
        second: list[int] = []
        for members in _members(self.labels).values():
            order = [int(i) for i in generator.permutation(members)]
            cut = min(max(1, round(len(order) * second_share)), len(order) - 1)
            second += order[:cut]
            first += order[cut:]
        return self.subset(sorted(first)), self.subset(sorted(second))


def nameless_classes(count: int) -> tuple[str, ...]:
    """What the classes of a network are called that does not say."""
    return tuple(f"class {index}" for index in range(count))


def digest_from_pixels(pixels: Pixels) -> str:
    """SHA-256 of one preprocessed image: its identity in overlap checks."""
    return hashlib.sha256(np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _members(labels: Sequence[int]) -> dict[int, list[int]]:
    members: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        members.setdefault(label, []).append(index)
    return dict(sorted(members.items()))


def _bytes(picture: Path | np.ndarray) -> bytes:
    if not isinstance(picture, Path):
        return picture.tobytes()
    try:
        return picture.read_bytes()
    except OSError as exc:
        reason = (exc.strerror or str(exc)).lower()
        raise DataError(f"image {picture} cannot be read: {reason}", "remove it or check its permissions") from exc


class _Broken(NamedTuple):
    """A file that cannot be decoded, and why where more is known than that."""

    path: Path
    reason: str


def _decoded_batch(pictures: Sequence[Path | np.ndarray], preprocess: Preprocess) -> PixelBatch | list[_Broken]:
    """The pixels of all, or what cannot be decoded."""
    decoded = [_decoded(picture, preprocess) for picture in pictures]
    broken = [each for each in decoded if isinstance(each, _Broken)]
    return broken or np.stack([pixels for pixels in decoded if isinstance(pixels, np.ndarray)])


def _decoded(picture: Path | np.ndarray, preprocess: Preprocess) -> Pixels | _Broken:
    if not isinstance(picture, Path):
        return pixels_from_image(Image.fromarray(picture), preprocess)
    try:
        return pixels_from_file(picture, preprocess)
    except DataError as exc:
        return _Broken(picture, "" if str(picture) in exc.message else f" ({exc.message})")


def _undecodable(broken: Sequence[_Broken], total: int) -> DataError:
    count = "1 image" if len(broken) == 1 else f"{len(broken)} images"
    named = ", ".join(f"{each.path}{each.reason}" for each in broken[:3])
    names = named + (f" and {len(broken) - 3} more" if len(broken) > 3 else "")
    remedy = "remove them or replace them by whole JPEGs or PNGs"
    return DataError(f"{count} of {total} cannot be decoded: {names}", remedy)
