"""From the canonical graph and its table to the quantized graph: the passes of INT8, in order."""

from collections.abc import Iterator

import onnx_ir as ir

from dnexport.calibrate.rounding import Rounded, rounded_weights
from dnexport.data.datasets import ImageSet, digest_from_pixels
from dnexport.data.images import InputPart, input_from_pixels
from dnexport.errors import DataError
from dnexport.graph.centre_activations import CentreActivations
from dnexport.graph.contract import Applied, Pass, apply
from dnexport.graph.correct_bias import CorrectBias
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.progress import Progress
from dnexport.spec.quantization import CalibrationTable, Quantization

_BATCH = 8


def quantized(
    model: ir.Model,
    table: CalibrationTable,
    options: Quantization,
    images: ImageSet | None,
    preprocess: Preprocess,
    progress: Progress,
) -> tuple[Applied, ...]:
    """Quantize a canonical graph in place; what each pass did.

    Args:
        model: the graph that ``table`` is of.
        table: its ranges.
        options: what is done beyond ranges.
        images: that calibrated it; needed where ``options.needs_images``.
        preprocess: of the images.
        progress: told of each image.

    Raises:
        DataError: the images are not those of the table, or there are none where they are needed.
        GraphError: the graph is quantized already.
    """
    rounded: dict[str, Rounded] = {}
    if options.needs_images:
        if images is None:
            raise DataError(
                "rounding and bias correction look at images, and none are given", "add --calibration-data DIR"
            )
        rounded = rounded_weights(
            model,
            table,
            _checked(images, preprocess, table),
            len(images),
            centre=options.centre,
            compensate=options.rounding == "gptq",
            tick=lambda done: progress.advance(done, len(images)),
        )
    passes: list[Pass] = [InsertQdq(table, {name: each.codes for name, each in rounded.items()})]
    if options.correct_bias:
        passes.append(CorrectBias({name: each.bias for name, each in rounded.items()}))
    if options.centre != "none":
        passes.append(CentreActivations(table, padded=options.centre == "all"))
    return apply(passes, model)


def _checked(images: ImageSet, preprocess: Preprocess, table: CalibrationTable) -> Iterator[InputPart]:
    """The images as inputs, refused where the table has not seen them: they might be test images."""
    known = set(table.image_digests)
    for pixels in images.batches(preprocess, _BATCH):
        if not known.issuperset(digest_from_pixels(image) for image in pixels):
            raise DataError(
                f"images of {images.name} are not among those of the calibration table",
                "calibrate again, or give the data that it was made with",
            )
        yield input_from_pixels(pixels, preprocess)
