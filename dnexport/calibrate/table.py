"""The calibration table of a graph: ranges with their provenance, refused where graph or preprocessing differ."""

from pathlib import Path

from pydantic import ValidationError

from dnexport.calibrate.collect import ranges_from_batches
from dnexport.data.datasets import ImageSet, digest_from_pixels
from dnexport.data.images import PixelBatch, input_from_pixels
from dnexport.errors import DataError
from dnexport.graph.contract import model_digest, model_from_path
from dnexport.graph.insert_qdq import quantization_points
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.progress import Progress
from dnexport.spec.quantization import CalibrationSet, CalibrationTable
from dnexport.spec.record import write_atomically

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


def save_table(table: CalibrationTable, path: Path) -> None:
    """Write a table as JSON, whole or not at all."""
    write_atomically(path, table.model_dump_json(indent=1).encode() + b"\n")


def table_from_path(path: Path) -> CalibrationTable:
    """Read a table.

    Raises:
        DataError: missing, or not a calibration table.
    """
    try:
        return CalibrationTable.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise DataError(f"calibration table {path} cannot be read", "run 'dnexport calibrate'") from exc
    except ValidationError as exc:
        raise DataError(
            f"calibration table {path} is not a calibration table", "run 'dnexport calibrate' again"
        ) from exc


def check_table(table: CalibrationTable, graph_digest: str, preprocess: Preprocess) -> None:
    """Refuse a table of another graph or other preprocessing.

    Raises:
        DataError: either differs.
    """
    if table.graph_digest != graph_digest:
        raise DataError(
            f"the calibration table is of graph {table.graph_digest[:12]}, this graph is {graph_digest[:12]}",
            "calibrate this graph: 'dnexport calibrate'",
        )
    if table.preprocess_digest != preprocess.content_digest():
        raise DataError(
            "the calibration table was made with other preprocessing", "calibrate again: 'dnexport calibrate'"
        )
