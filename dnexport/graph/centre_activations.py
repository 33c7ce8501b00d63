"""Centre what a convolution reads, so that symmetric int8 uses all of its codes.

After a ReLU a tensor lies in [0, h], and symmetric int8 leaves half of its codes unused. Subtracting the middle c = h/2
gives [−h/2, h/2] and a scale of half the size: one bit more. A convolution is linear, so the constant is put back
exactly, by what the int8 weights Ŵ make of a picture of the value c:

    Ŵ ∗ x  =  Ŵ ∗ (x − c)  +  Ŵ ∗ c

Without padding Ŵ ∗ c is one number an output channel and goes into the bias; behind an average pooling it is c. With
padding the border reads zeros where x − c would have to be −c; there Ŵ ∗ c, computed with the same padding, differs
near the border, and is added as a picture of its own. (W ∗ c of the float weights would leave their rounding error
times c, and c is large beside the mean of x.)
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from dnexport.graph.contract import PassResult
from dnexport.graph.insert_qdq import LEAST_FLOAT16, activation_scale, float16_ceiling
from dnexport.graph.pool_before_conv import partial_windows
from dnexport.graph.values import add_initializer, add_to_bias, constant_array, name_of, set_array
from dnexport.spec.quantization import INT8_MAX, CalibrationTable, Range

SUBTRACTION = "_subtract_centre"  # ends the names of the nodes that subtract it
_STEPS = 255  # between the least and the greatest of 256 codes
_WORTH = 1.25  # of the scale, below which a tensor is left as it is


def centring(seen: Range) -> tuple[float, float]:
    """The constant c that is subtracted from a tensor of that range, and its scale then; c is 0 where it gains little.

    c is a multiple of the scale, so that what was 0, as most of a tensor behind a ReLU is, stays exactly 0; the ends of
    the range fall on −128 and 127.
    """
    lo, hi = min(seen.lo, 0.0), max(seen.hi, 0.0)  # 0 must have a code: padding reads it
    width = hi - lo
    if width / _STEPS < LEAST_FLOAT16 or 2 * seen.scale * INT8_MAX < _WORTH * width:
        return 0.0, activation_scale(seen)
    scale = float(float16_ceiling(np.float32(max(width / _STEPS, LEAST_FLOAT16))))
    return (round(lo / scale) + _STEPS // 2 + 1) * scale, scale


def is_padded(conv: ir.Node) -> bool:
    """Whether a convolution reads beyond its input; `adopt` has written out what ``auto_pad`` means."""
    return any(conv.attributes.get_ints("pads", [0, 0, 0, 0]))


def read_with_padding(value: ir.Value | None, convs: Iterable[ir.Node] = ()) -> bool:
    """Whether any of the given convolutions, or of those that read a value as it is, has padding."""
    direct = [use.node for use in value.uses()] if value is not None else []
    return any(node.op_type == "Conv" and is_padded(node) for node in (*direct, *convs))


class CentreActivations:
    """Subtract the middle of its range from what is quantized, and put it back behind each convolution.

    Works on a graph that `InsertQdq` has quantized: what is put back is what the int8 weights make of the constant.

    Args:
        table: ranges of the graph before it was quantized.
        padded: also for convolutions with padding, whose pictures cost OpenVINO more than they win.
    """

    name = "centre_activations"

    def __init__(self, table: CalibrationTable, *, padded: bool = True) -> None:
        self.table = table
        self.padded = padded

    def __call__(self, model: ir.Model) -> PassResult:
        reasons: list[str] = []
        modified = False
        # What is put back behind a pooling goes by another name, and may be quantized in turn.
        points = [(node, name_of(node.inputs[0])) for node in model.graph if node.op_type == "QuantizeLinear"]
        for quantize, name in points:
            if name not in self.table.ranges:
                continue
            centre, scale = centring(self.table.ranges[name])
            if not centre:
                continue
            convs = readers_behind(quantize)
            if not self.padded and read_with_padding(quantize.inputs[0], convs):
                continue
            constants = convolved_constants(convs, centre)
            if isinstance(constants, str):
                reasons.append(f"{name}: {constants}")
                continue
            _subtract(model, quantize, centre, scale)
            for conv, constant in zip(convs, constants, strict=True):
                _put_back(model, conv, constant)
            modified = True
        return PassResult(model, modified, tuple(reasons))


def readers_behind(quantize: ir.Node) -> list[ir.Node]:
    """What reads a quantized tensor through its DequantizeLinear."""
    return [use.node for reader in quantize.outputs[0].uses() for use in reader.node.outputs[0].uses()]


def convolved_constants(readers: Iterable[ir.Node], centre: float) -> list[np.ndarray] | str:
    """Ŵ ∗ c of each convolution, [1, outputs, height, width] or [1, outputs, 1, 1]; or why one cannot be known.

    Of an average pooling it is c itself, [1, 1, 1, 1].
    """
    constants = []
    for reader in readers:
        whole_windows = reader.op_type == "AveragePool" and partial_windows(reader) is None
        constant = np.full((1, 1, 1, 1), centre, np.float32) if whole_windows else _convolved_constant(reader, centre)
        if isinstance(constant, str):
            return constant
        constants.append(constant)
    return constants


def _convolved_constant(conv: ir.Node, centre: float) -> np.ndarray | str:
    """Ŵ ∗ c, [1, outputs, height, width] or [1, outputs, 1, 1]; or why it cannot be known."""
    weight = _dequantized(conv.inputs[1]) if conv.op_type == "Conv" and len(conv.inputs) > 1 else None
    if weight is None:
        return f"{conv.name} is not a convolution of int8 weights"
    if not is_padded(conv):
        total: np.ndarray = weight.sum(axis=(1, 2, 3)) * centre
        return total.astype(np.float32).reshape(1, -1, 1, 1)
    source, target = conv.inputs[0], conv.outputs[0]
    if source is None or source.shape is None or target.shape is None:
        return f"the shape of {conv.name} is not known"
    sides = [side for side in (*source.shape[2:], *target.shape[2:]) if isinstance(side, int)]
    if len(sides) != 4:
        return f"the padding of {conv.name} depends on an input size that is not fixed"
    # Sums over the taps that lie inside, separately for rows and columns of the output.
    rows = _inside(sides[0], sides[2], conv, weight.shape[2], 0)
    columns = _inside(sides[1], sides[3], conv, weight.shape[3], 1)
    picture: np.ndarray = centre * np.einsum("ohw,yh,xw->oyx", weight.sum(axis=1), rows, columns)
    return picture[None].astype(np.float32)


def _dequantized(value: ir.Value | None) -> np.ndarray | None:
    producer = value.producer() if value is not None else None
    if producer is None or producer.op_type != "DequantizeLinear":
        return None
    codes, scale = (constant_array(v) for v in producer.inputs[:2])
    if codes is None or scale is None:
        return None
    weight: np.ndarray = codes.astype(np.float64) * scale.astype(np.float64).reshape(-1, 1, 1, 1)
    return weight


def _inside(size: int, out: int, conv: ir.Node, taps: int, axis: int) -> np.ndarray:
    """1 where a tap of an output position reads a pixel, 0 where it reads padding; [out, taps]."""
    stride = list(conv.attributes.get_ints("strides", [1, 1]))[axis]
    dilation = list(conv.attributes.get_ints("dilations", [1, 1]))[axis]
    before = list(conv.attributes.get_ints("pads", [0, 0, 0, 0]))[axis]
    position = np.arange(out)[:, None] * stride + np.arange(taps)[None, :] * dilation - before
    return ((position >= 0) & (position < size)).astype(np.float64)


def _subtract(model: ir.Model, quantize: ir.Node, centre: float, scale: float) -> None:
    x = quantize.inputs[0]
    assert x is not None
    name = quantize.name  # one tensor may be quantized twice: for its convolutions, and to be pooled
    middle = add_initializer(model, f"{name}_centre", np.asarray(centre, np.float32))
    subtract = ir.node("Sub", [x, middle], name=f"{name}{SUBTRACTION}")
    subtract.outputs[0].name = f"{name}_centred"
    subtract.outputs[0].type, subtract.outputs[0].shape = x.type, x.shape
    model.graph.insert_before(quantize, subtract)
    quantize.replace_input_with(0, subtract.outputs[0])
    held = quantize.inputs[1]
    assert held is not None
    set_array(held, np.asarray(scale, np.float32))


def _put_back(model: ir.Model, reader: ir.Node, constant: np.ndarray) -> None:
    output = reader.outputs[0]
    name = name_of(output)
    if reader.op_type == "Conv" and np.ptp(constant, axis=(2, 3)).max() == 0:
        add_to_bias(model, reader, f"{name}_centred_bias", constant[0, :, 0, 0])
        return
    picture = add_initializer(model, f"{name}_centre_picture", constant)
    add = ir.node("Add", [output, picture], name=f"{name}_add_centre")
    add.outputs[0].name = f"{name}_uncentred"
    add.outputs[0].type, add.outputs[0].shape = output.type, output.shape
    model.graph.insert_after(reader, add)
    output.replace_all_uses_with(add.outputs[0])
    add.replace_input_with(0, output)
