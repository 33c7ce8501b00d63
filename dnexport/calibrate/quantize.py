"""From the canonical graph and its table to the quantized graph: the passes of INT8, in order."""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from dnexport.calibrate.rounding import Rounded, rounded_weights
from dnexport.data.images import InputPart, input_from_pixels
from dnexport.data.imageset import ImageSet, digest_from_pixels
from dnexport.errors import DataError, GraphError
from dnexport.graph.centre_activations import CentreActivations
from dnexport.graph.contract import Applied, Pass, apply, model_from_path, save_model
from dnexport.graph.correct_bias import CorrectBias
from dnexport.graph.dense_blocks import dense_blocks
from dnexport.graph.equalize_pooled import EqualizePooled
from dnexport.graph.equalize_state import EqualizeState
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.graph.pixel_input import PIXEL_RANGE, PIXELS, PixelInput
from dnexport.graph.quantize_state import QuantizeState
from dnexport.graph.values import constant_array, kernel_of, name_of
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.progress import Progress
from dnexport.spec.quantization import CalibrationTable, Placement, Quantization

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
        graph: as `prepare` has written it.
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
        lambda: _checked(images, preprocess, table),
        len(images),
        centre=options.centre,
        compensate=options.rounding == "gptq",
        tick=progress.advance,
    )


def quantizable_layers(model: ir.Model, table: CalibrationTable, placement: Placement) -> list[str]:
    """Names of what a plan decides on: the convolutions, and in placement ``state`` the dense blocks."""
    convs = [node for node in model.graph if node.op_type == "Conv" and constant_array(node.inputs[1]) is not None]
    names = [name_of(conv.outputs[0]) for conv in convs if name_of(conv.inputs[0]) in table.ranges]
    return names + ([block.name for block in dense_blocks(model)] if placement == "state" else [])


@dataclass(frozen=True)
class Prepared:
    """A float graph that is ready to be quantized, and what is known of it.

    Attributes:
        graph: its file.
        table: with the ranges of the tensors that preparing has added or moved.
        applied: what each pass did.
    """

    graph: Path
    table: CalibrationTable
    applied: tuple[Applied, ...]


def prepare(
    graph: Path, table: CalibrationTable, options: Quantization, preprocess: Preprocess, path: Path
) -> Prepared:
    """Rewrite a canonical graph, exactly but for rounding, so that less is lost when it is quantized.

    Args:
        graph: the canonical graph that ``table`` is of.
        table: its ranges.
        options: what is done beyond ranges.
        preprocess: what makes the input of pixels.
        path: the file to write.
    """
    model = model_from_path(graph)
    passes: list[Pass] = [PixelInput(preprocess)] if options.pixel_input and options.centre != "none" else []
    states, pooled = EqualizeState(table.channels, centre=options.centre != "none"), EqualizePooled(table.channels)
    if options.placement == "state":
        passes += [states, pooled]
    applied = apply(passes, model)
    save_model(model, path)
    moved = {name: seen.whole for name, seen in pooled.moved.items()}
    ranges, channels = {**table.ranges, PIXELS: PIXEL_RANGE, **moved}, {**states.channels, **pooled.moved}
    return Prepared(path, table.model_copy(update={"ranges": ranges, "channels": channels}), applied)


def kept_by_policy(model: ir.Model, options: Quantization) -> dict[str, str]:
    """Convolutions that stay in float whatever the budget, by the names of their outputs, and why each does."""
    classifier = dict.fromkeys(_classifier(model), "the classifier stays in float")
    if options.int8_transitions:
        return classifier
    pools = [node for node in model.graph if node.op_type == "AveragePool"]
    readers = [use.node for pool in pools for use in pool.outputs[0].uses()]
    pointwise = [node for node in readers if node.op_type == "Conv" and kernel_of(node) == (1, 1)]
    return {name_of(conv.outputs[0]): "transitions stay in float" for conv in pointwise} | classifier


def _classifier(model: ir.Model) -> frozenset[str]:
    """The convolution whose output is the logits, but for their shape; none where they come of a matrix product."""
    node = model.graph.outputs[0].producer()
    while node is not None and node.op_type in ("Flatten", "Reshape", "Squeeze"):
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return frozenset({name_of(node.outputs[0])} if node is not None and node.op_type == "Conv" else ())


def quantize(
    model: ir.Model,
    table: CalibrationTable,
    options: Quantization,
    rounded: Mapping[str, Rounded],
    kept: Collection[str] = (),
) -> tuple[Applied, ...]:
    """Quantize a prepared graph in place, but for the layers that are ``kept`` in float; what each pass did.

    Raises:
        GraphError: the graph is quantized already, or the table is of another; placement ``state``, and no dense block
            of it can be held in int8.
    """
    chosen = {name: each for name, each in rounded.items() if name not in kept}
    passes: list[Pass] = [InsertQdq(table, {name: each.codes for name, each in chosen.items()}, kept)]
    if options.placement == "state":
        passes.append(QuantizeState(table, kept, pooling=options.pooling == "int8"))
    if options.correct_bias:
        passes.append(CorrectBias({name: each.bias for name, each in chosen.items()}))
    if options.centre != "none":
        passes.append(CentreActivations(table, padded=options.centre == "all"))
    by_choice = {block.name for block in dense_blocks(model)} & set(kept)
    applied = apply(passes, model)
    if options.placement == "state" and not applied[1].modified and not by_choice:
        reason = applied[1].reasons[0] if applied[1].reasons else "it has none"
        raise GraphError(f"no dense block of the graph can be held in int8 ({reason})", "use placement activation")
    return applied


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
