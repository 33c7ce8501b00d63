"""Decoded pictures kept in a file: what is decoded once is mapped into memory from then on, by all processes."""

import uuid
from pathlib import Path

import numpy as np

from dnexport.data.images import PixelBatch
from dnexport.data.imageset import ImageSet
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.record import digest_from_json

LARGEST_STORE = 16 * 2**30
_LARGEST_IN_MEMORY = 2**30


def store_size(images: ImageSet, preprocess: Preprocess) -> int:
    """Bytes of a decoded set."""
    height, width = preprocess.input_size
    return len(images) * height * width * preprocess.planes


def stored_pixels(images: ImageSet, preprocess: Preprocess, folder: Path, threads: int) -> PixelBatch:
    """All pictures of a set, decoded; mapped from ``folder`` where they came from files or are many.

    The file's name is the digest of pictures and preprocessing, and it appears whole or not at all.

    Raises:
        DataError: pictures that cannot be decoded.
        OSError: no space or no permission.
    """
    held = not any(isinstance(picture, Path) for picture in images.pictures)
    if held and store_size(images, preprocess) <= _LARGEST_IN_MEMORY:
        return images.pixels(preprocess)
    shape = (len(images), *preprocess.input_size, preprocess.planes)
    path = folder / f"pixels-{digest_from_json([images.digest(), preprocess.content_digest()])[:16]}.npy"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{path.name}.{uuid.uuid4().hex[:12]}.tmp"  # machines may share the folder
        try:
            # Written, not mapped: where no space is left, a mapped file would kill the process.
            with temporary.open("wb") as file:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for batch in images.batches(preprocess, 256, threads):
                    file.write(batch.tobytes())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    pixels: np.ndarray = np.load(path, mmap_mode="r")
    if pixels.shape != shape or pixels.dtype != np.uint8:
        path.unlink()
        return stored_pixels(images, preprocess, folder, threads)
    return pixels
