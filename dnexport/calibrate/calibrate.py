"""From images to the calibration table of a graph: ranges with their provenance."""

from pathlib import Path

from dnexport.calibrate.collect import ranges_from_batches
from dnexport.data.datasets import ImageSet, digest_from_pixels
from dnexport.data.images import PixelBatch, input_from_pixels
from dnexport.errors import DataError
from dnexport.graph.contract import model_digest, model_from_path
from dnexport.graph.insert_qdq import quantization_points
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.progress import Progress
from dnexport.spec.quantization import CalibrationSet, CalibrationTable

_BATCH = 8


def table_from_images(
    graph: Path, images: ImageSet, preprocess: Preprocess, calibration_set: CalibrationSet, progress: Progress
) -> CalibrationTable:
    """Calibrate the canonical graph on images already drawn.

    Raises:
        DataError: no images, one that cannot be decoded, or activations that are not finite.
    """
    if not len(images):
        raise DataError(f"the calibration set of {images.name} is empty", "give --calibration-data DIR with images")
    model = model_from_path(graph)
    digest, tensors = model_digest(model), quantization_points(model)
    seen: list[str] = []

    def batch_seen(pixels: PixelBatch) -> PixelBatch:
        seen.extend(digest_from_pixels(image) for image in pixels)
        return pixels

    inputs = (input_from_pixels(batch_seen(pixels), preprocess) for pixels in images.batches(preprocess, _BATCH))
    ranges = ranges_from_batches(
        model, tensors, inputs, calibration_set.observer, lambda _: progress.advance(len(seen), len(images))
    )
    return CalibrationTable(
        calibration_set=calibration_set,
        image_digests=tuple(seen),
        graph_digest=digest,
        preprocess_digest=preprocess.content_digest(),
        synthetic=images.name == "synthetic",
        ranges=ranges,
    )
