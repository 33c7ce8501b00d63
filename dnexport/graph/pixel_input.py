"""Quantize the input on the grid of its pixels, which loses nothing.

The input is x = (p/255 − mean)/std with p an integer from 0 to 255. Codes of p hold it exactly.

    v = (255·std·x + 255·mean)/128  =  p/128                 in [0, 255/128]: centred, its int8 scale is 1/128
    W∗x + b  =  (128·W/(255·std))∗v + (b − Σ W·mean/std)

One scale for x itself, whose channels have other means and deviations, would round every pixel. Padding is done before,
with x = 0: the border is the mean rounded to a whole pixel value.
"""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from dnexport.graph.contract import PassResult
from dnexport.graph.values import add_initializer, add_to_bias, constant_array, name_of, replace_constant
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.quantization import Range

PIXELS = "input_pixels"
_HALF = 128
# Of the tensor `PIXELS`; `centre_activations` makes a scale of 1/128 of it.
PIXEL_RANGE = Range(lo=0.0, hi=255 / _HALF)


class PixelInput:
    """Let the first convolution read pixel values.

    Args:
        preprocess: what makes the input of pixels.
    """

    name = "pixel_input"

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, model: ir.Model) -> PassResult:
        x = model.graph.inputs[0]
        readers = [use.node for use in x.uses() if use.node.op_type != "Shape"]
        if len(readers) != 1 or readers[0].op_type != "Conv":
            return PassResult(model, False, ("the input is read by more than a convolution",))
        conv = readers[0]
        weight = constant_array(conv.inputs[1])
        if weight is None or weight.shape[1] != len(self.preprocess.mean):
            return PassResult(model, False, (f"{conv.name}: its weight is not a constant a channel",))
        if conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            return PassResult(model, False, (f"{conv.name}: its padding is not known",))
        mean, std = (
            np.asarray(each, np.float64)[:, None, None] for each in (self.preprocess.mean, self.preprocess.std)
        )
        padded = _padded(model, x, conv)
        scaled = _elementwise(model, "Mul", padded, 255 * std / _HALF, f"{PIXELS}_gain", f"{PIXELS}_scaled", conv)
        pixels = _elementwise(model, "Add", scaled, 255 * mean / _HALF, f"{PIXELS}_offset", PIXELS, conv)
        conv.replace_input_with(0, pixels)
        moved = -(weight * (mean / std)).sum(axis=(1, 2, 3))
        add_to_bias(model, conv, f"{name_of(conv.outputs[0])}_bias_of_pixels", moved.astype(np.float32))
        name = f"{name_of(conv.inputs[1])}_of_pixels"
        replace_constant(model, conv, 1, name, (weight * _HALF / (255 * std)).astype(np.float32))
        return PassResult(model, True)


def _padded(model: ir.Model, x: ir.Value, conv: ir.Node) -> ir.Value:
    """The input with the convolution's padding around it, which is taken from the convolution."""
    pads = list(conv.attributes.get_ints("pads", [0, 0, 0, 0]))
    if not any(pads):
        return x
    amounts = add_initializer(model, f"{PIXELS}_pads", np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64))
    pad = ir.node("Pad", [x, amounts], name=f"{PIXELS}_pad")
    sides = list(x.shape)[2:] if x.shape is not None else []
    grown = [s + pads[i] + pads[i + 2] if isinstance(s, int) else None for i, s in enumerate(sides)]
    _describe(pad.outputs[0], f"{PIXELS}_padded", x, grown)
    model.graph.insert_before(conv, pad)
    conv.attributes["pads"] = ir.AttrInt64s("pads", [0, 0, 0, 0])
    return pad.outputs[0]


def _elementwise(
    model: ir.Model, operator: str, x: ir.Value, constant: np.ndarray, constant_name: str, name: str, conv: ir.Node
) -> ir.Value:
    value = add_initializer(model, constant_name, constant[None].astype(np.float32))
    node = ir.node(operator, [x, value], name=f"{name}_{operator.lower()}")
    _describe(node.outputs[0], name, x, list(x.shape)[2:] if x.shape is not None else [])
    model.graph.insert_before(conv, node)
    return node.outputs[0]


def _describe(value: ir.Value, name: str, like: ir.Value, sides: Sequence[int | ir.SymbolicDim | None]) -> None:
    value.name = name
    if like.dtype is not None:
        value.type = ir.TensorType(like.dtype)  # a type of its own: another pass may change it in place
    if like.shape is not None:
        value.shape = ir.Shape([*list(like.shape)[:2], *sides])
