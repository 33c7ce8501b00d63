"""Images that have calibrated a network must not judge it."""

from collections.abc import Iterator

from dnexport.data.imageset import ImageSet, digest_from_pixels
from dnexport.errors import DataError
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.quantization import CalibrationTable


def check_disjoint(table: CalibrationTable, test: ImageSet, preprocess: Preprocess, part: str = "test") -> None:
    """Refuse calibration images that are also test, or tuning, images.

    Raises:
        DataError: some are; counted.
    """
    if table.synthetic:
        return
    seen = set(table.image_digests)
    shared = sum(digest in seen for digest in _digests(test, preprocess))
    if shared:
        raise DataError(f"{shared} of {len(test)} {part} images were used for calibration", "keep the two apart")


def check_apart(tuning: ImageSet, test: ImageSet, preprocess: Preprocess) -> None:
    """Refuse tuning images that are also test images.

    Raises:
        DataError: some are; counted.
    """
    if test.name == "synthetic":
        return
    tuned = set(_digests(tuning, preprocess))
    shared = sum(digest in tuned for digest in _digests(test, preprocess))
    if shared:
        raise DataError(f"{shared} of {len(test)} test images are tuning images too", "keep the two apart")


def _digests(images: ImageSet, preprocess: Preprocess) -> Iterator[str]:
    return (digest_from_pixels(image) for pixels in images.batches(preprocess, 64) for image in pixels)
