"""From the canonical graph and its table to the quantized graph: the passes of INT8, in order."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import onnx_ir as ir

from dnexport.calibrate.rounding import Rounded, rounded_weights
from dnexport.data.datasets import ImageSet, digest_from_pixels
from dnexport.data.images import InputPart, input_from_pixels
from dnexport.errors import DataError
from dnexport.graph.centre_activations import CentreActivations
from dnexport.graph.contract import Applied, Pass, apply, model_from_path
from dnexport.graph.correct_bias import CorrectBias
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.progress import Progress
from dnexport.spec.quantization import CalibrationTable, Quantization

_BATCH = 8


def rounded_from_images(
    graph: Path,
    table: CalibrationTable,
    options: Quantization,
    images: ImageSet | None,
    preprocess: Preprocess,
    progress: Progress,
) -> dict[str, Rounded]:
    """Codes and bias corrections, by the name of the convolution's output; none where ``options`` want none.

    Args:
        graph: the canonical graph that ``table`` is of.
        table: its ranges.
        options: what is done beyond ranges.
        images: that calibrated it; needed where ``options.needs_images``.
        preprocess: of the images.
        progress: told of each image.

    Raises:
        DataError: the images are not those of the table, or there are none where they are needed.
    """
    if not options.needs_images:
        return {}
    if images is None:
        raise DataError("rounding and bias correction look at images, and none are given", "add --calibration-data DIR")
    return rounded_weights(
        model_from_path(graph),
        table,
        _checked(images, preprocess, table),
        len(images),
        centre=options.centre,
        compensate=options.rounding == "gptq",
        tick=lambda done: progress.advance(done, len(images)),
    )


def quantize(
    model: ir.Model,
    table: CalibrationTable,
    options: Quantization,
    rounded: Mapping[str, Rounded],
    kept: Collection[str] = (),
) -> tuple[Applied, ...]:
    """Quantize a canonical graph in place, but for the layers that are ``kept`` in float; what each pass did.

    Raises:
        GraphError: the graph is quantized already, or the table is of another.
    """
    chosen = {name: each for name, each in rounded.items() if name not in kept}
    passes: list[Pass] = [InsertQdq(table, {name: each.codes for name, each in chosen.items()}, kept)]
    if options.correct_bias:
        passes.append(CorrectBias({name: each.bias for name, each in chosen.items()}))
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
