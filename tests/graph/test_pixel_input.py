from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.data.images import input_from_pixels
from dnexport.graph.centre_activations import CentreActivations
from dnexport.graph.contract import apply
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.graph.pixel_input import PIXEL_RANGE, PIXELS, PixelInput
from dnexport.graph.values import constant_array
from dnexport.spec.preprocess import Preprocess
from tests.graph.test_insert_qdq import table
from tests.graph.texts import model_from_text, operators, random

Evaluate = Callable[[ir.Model, np.ndarray], np.ndarray]
SEEN = table({PIXELS: PIXEL_RANGE})
PREPROCESS = Preprocess(input_size=(8, 8), resize=None)


def stem(pad: int, *, bias: bool = True) -> ir.Model:
    body = f"c = Conv<kernel_shape=[3,3], pads=[{pad},{pad},{pad},{pad}]>(input, w{', b' if bias else ''}) logits = Flatten(c)"
    constants = {"w": random(5, 3, 3, 3)} | ({"b": random(5)} if bias else {})
    return model_from_text(body, constants, channels=3, out="[batch, n]")


def pixels(count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), np.uint8)


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("bias", [True, False])
def test_the_float_graph_stays_the_same(pad: int, bias: bool, evaluate: Evaluate) -> None:
    model, x = stem(pad, bias=bias), input_from_pixels(pixels(), PREPROCESS)
    before = evaluate(model, x)
    (applied,) = apply((PixelInput(PREPROCESS),), model)
    assert applied.modified
    assert operators(model) == [*(["Pad"] if pad else []), "Mul", "Add", "Conv", "Flatten"]
    np.testing.assert_allclose(evaluate(model, x), before, atol=1e-4)


def test_every_pixel_is_held_exactly(evaluate: Evaluate) -> None:
    """All 256 values of each channel: what comes out of Q/DQ is what went in."""
    ramp = np.arange(256, dtype=np.uint8).repeat(3).reshape(4, 8, 8, 3)
    model = stem(0)
    apply((PixelInput(PREPROCESS), InsertQdq(SEEN), CentreActivations(SEEN)), model)
    dequantized = next(n for n in model.graph if n.name == f"{PIXELS}_dequantize").outputs[0]
    dequantized.type, dequantized.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape(["batch", 3, 8, 8])
    model.graph.outputs[:] = [dequantized]
    found = evaluate(model, input_from_pixels(ramp, PREPROCESS))
    assert ((found.transpose(0, 2, 3, 1) + 1) * 128 == ramp).all()


def test_the_border_is_the_mean_to_half_a_pixel_value(evaluate: Evaluate) -> None:
    model, plain = stem(1), stem(1)
    apply((PixelInput(PREPROCESS), InsertQdq(SEEN), CentreActivations(SEEN)), model)
    x = input_from_pixels(pixels(), PREPROCESS)
    weight = next(n for n in model.graph if n.op_type == "Conv").inputs[1].producer()
    codes, scales = (constant_array(value) for value in weight.inputs[:2])
    std = np.asarray(PREPROCESS.std)[:, None, None]
    held = codes * scales[:, None, None, None] * 255 * std / 128
    plain.graph.initializers["w"].const_value = ir.tensor(held.astype(np.float32), name="w")
    shift = ((held - random(5, 3, 3, 3)) * (np.asarray(PREPROCESS.mean)[:, None, None] / std)).sum((1, 2, 3))
    error = np.abs(evaluate(model, x) - evaluate(plain, x)).reshape(4, 5, 8, 8)
    inner = error[:, :, 1:-1, 1:-1] - np.abs(shift)[:, None, None]
    assert np.abs(inner).max() < 1e-4, "inside only the weights are rounded"
    half = np.abs(held).sum((1, 2, 3)) * (0.5 / 255 / std.min())
    assert (error <= (half + np.abs(shift))[:, None, None] + 1e-4).all()


def test_a_shape_may_be_read_too() -> None:
    body = "c = Conv<kernel_shape=[1,1]>(input, w) s = Shape(input) logits = Reshape(c, s)"
    model = model_from_text(body, {"w": random(3, 3, 1, 1)}, channels=3, out="[batch, 3, 8, 8]")
    assert apply((PixelInput(PREPROCESS),), model)[0].modified


def test_what_reads_the_input_otherwise_is_declined() -> None:
    body = "c = Conv<kernel_shape=[1,1]>(input, w) r = Relu(input) logits = Add(c, r)"
    model = model_from_text(body, {"w": random(3, 3, 1, 1)}, channels=3, out="[batch, 3, 8, 8]")
    (applied,) = apply((PixelInput(PREPROCESS),), model)
    assert applied.reasons == ("the input is read by more than a convolution",)
