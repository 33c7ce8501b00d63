"""uint8 pixels in: equal to the float input within 1e-4 of the largest logit, in every precision."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.data.images import input_from_pixels
from dnexport.errors import GraphError
from dnexport.graph.contract import apply, model_from_path
from dnexport.graph.embed_preprocess import EmbedPreprocess
from dnexport.graph.insert_qdq import InsertQdq, quantization_points
from dnexport.graph.passes_for import passes_for
from dnexport.graph.pixel_input import PIXEL_RANGE, PIXELS, PixelInput
from dnexport.spec.precision import Precision
from dnexport.spec.quantization import Range
from dnexport.spec.target import Target
from tests.graph.test_insert_qdq import table
from tests.networks import TINY_PREPROCESS, tiny_pixels

Evaluate = Callable[[ir.Model, np.ndarray], np.ndarray]
PIXELS_SEEN = tiny_pixels(16, seed=3)
TARGETS = ("onnxruntime:cpu", "openvino:cpu", "tensorrt")


def graph(path: Path, precision: Precision) -> ir.Model:
    model = model_from_path(path)
    if precision is Precision.INT8:
        apply((PixelInput(TINY_PREPROCESS),), model)
        points = dict.fromkeys(quantization_points(model), Range(lo=0, hi=5)) | {PIXELS: PIXEL_RANGE}
        apply((InsertQdq(table(points)),), model)
    return model


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("precision", list(Precision))
def test_pixels_give_the_logits_of_the_normalised_images(
    tiny_graph: Path, evaluate: Evaluate, precision: Precision, target: str
) -> None:
    parsed = Target.parse(target)
    normalised, pixels = graph(tiny_graph, precision), graph(tiny_graph, precision)
    apply(passes_for(precision, parsed), normalised)
    apply(passes_for(precision, parsed, TINY_PREPROCESS), pixels)
    (taken,) = pixels.graph.inputs
    assert (taken.name, taken.dtype, list(taken.shape)[1:]) == ("input", ir.DataType.UINT8, [16, 16, 3])
    expected = evaluate(normalised, input_from_pixels(PIXELS_SEEN, TINY_PREPROCESS))
    found = evaluate(pixels, PIXELS_SEEN)
    # FP16 rounds the pixels less the mean where it rounded the normalised values: as large an error, another one.
    tolerance = 1e-4 if parsed.device == "cpu" else 2e-2
    assert np.abs(found - expected).max() <= tolerance * np.abs(expected).max()


def test_another_normalisation_gives_other_logits(tiny_graph: Path, evaluate: Evaluate) -> None:
    """The check above can fail."""
    other = TINY_PREPROCESS.model_copy(update={"mean": (0.4, 0.4, 0.4)})
    model = model_from_path(tiny_graph)
    apply((EmbedPreprocess(other),), model)
    expected = evaluate(model_from_path(tiny_graph), input_from_pixels(PIXELS_SEEN, TINY_PREPROCESS))
    assert np.abs(evaluate(model, PIXELS_SEEN) - expected).max() > 1e-2 * np.abs(expected).max()


def test_the_upload_is_a_quarter(tiny_graph: Path) -> None:
    pixels = tiny_pixels(8)
    assert input_from_pixels(pixels, TINY_PREPROCESS).nbytes == 4 * pixels.nbytes


def test_a_graph_whose_first_node_takes_no_factor_is_refused(tiny_graph: Path) -> None:
    model = model_from_path(tiny_graph)
    (taken,) = model.graph.inputs
    (reader,) = [use.node for use in taken.uses() if use.node.op_type == "Conv"]
    sigmoid = ir.node("Sigmoid", [taken], name="first")
    sigmoid.outputs[0].name, sigmoid.outputs[0].type, sigmoid.outputs[0].shape = "squashed", taken.type, taken.shape
    model.graph.insert_before(reader, sigmoid)
    reader.replace_input_with(0, sigmoid.outputs[0])
    with pytest.raises(GraphError, match=r"node first \(Sigmoid\) reads the input, and a factor cannot move into it"):
        apply((EmbedPreprocess(TINY_PREPROCESS),), model)
