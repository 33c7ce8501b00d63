"""Explicit quantization: QuantizeLinear → DequantizeLinear around what a convolution reads.

    x̂ = s·clip(round(x/s), −128, 127),   s = max|x|/127          activations: one scale a tensor
    Ŵ_o = s_o·q_o,  q int8,               s_o = max|W_o|/127      weights: one scale an output channel

Placement *activation*: after BN and ReLU, directly at each convolution's input; the concatenation stays in float.
Weights are stored as int8 behind DequantizeLinear; zero points are 0; biases stay float: the form that TensorRT's
parser, TensorRT for RTX, OpenVINO and ONNX Runtime all accept. The classifier (a Gemm) stays in float: it is a
thousandth of the work and feeds the answer directly.

Scales are rounded up to values that FP16 holds exactly, so that a lowering to an FP16 body changes no scale and no
weight's code.
"""

from collections.abc import Collection, Mapping

import numpy as np
import onnx_ir as ir

from dnexport.errors import GraphError
from dnexport.graph.contract import PassResult
from dnexport.graph.pool_before_conv import transition_pools
from dnexport.graph.values import add_initializer, constant_array, name_of
from dnexport.spec.quantization import INT8_MAX, CalibrationTable, Range

LEAST_FLOAT16 = 2.0**-24


def quantization_points(model: ir.Model) -> tuple[str, ...]:
    """Names of the activations that may be quantized with a scale of their own, and that calibration observes.

    What convolutions read (`InsertQdq`), and what transitions pool (`quantize_state.QuantizeState`).
    """
    convs = (node for node in model.graph if node.op_type == "Conv" and _of_pictures(node))
    return tuple(dict.fromkeys(name_of(node.inputs[0]) for node in (*convs, *transition_pools(model))))


def _of_pictures(conv: ir.Node) -> bool:
    weight = constant_array(conv.inputs[1])
    return weight is None or weight.ndim == 4


class InsertQdq:
    """Quantize every convolution by the ranges of a calibration table.

    Args:
        table: ranges of this very graph.
        codes: int8 weights by the name of the convolution's output, for the scales of `quantized_weight`; where there
            are none, weights are rounded to the nearest.
        kept: names of the outputs of convolutions that stay in float.
    """

    name = "insert_qdq"

    def __init__(
        self,
        table: CalibrationTable,
        codes: Mapping[str, np.ndarray] | None = None,
        kept: Collection[str] = (),
    ) -> None:
        self.table = table
        self.codes = codes or {}
        self.kept = kept

    def __call__(self, model: ir.Model) -> PassResult:
        if any(node.op_type == "QuantizeLinear" for node in model.graph):
            raise GraphError("the graph is already quantized", "give the float graph it was made from")
        quantized: dict[str, ir.Value] = {}
        convs = [n for n in model.graph if n.op_type == "Conv" and name_of(n.outputs[0]) not in self.kept]
        reasons: list[str] = []
        modified = False
        for conv in convs:
            weight = constant_array(conv.inputs[1])
            if weight is None:
                reasons.append(f"{conv.name}: its weight is not a constant")
                continue
            if not _of_pictures(conv):
                reasons.append(f"{conv.name}: it does not convolve pictures")
                continue
            activation, weight_name = name_of(conv.inputs[0]), name_of(conv.inputs[1])
            if activation not in quantized:
                quantized[activation] = self._quantized_activation(model, conv)
            conv.replace_input_with(0, quantized[activation])
            conv.replace_input_with(1, self._quantized_weight(model, conv, weight))
            model.graph.initializers.pop(weight_name)
            modified = True
        return PassResult(model, modified, tuple(reasons))

    def _quantized_activation(self, model: ir.Model, conv: ir.Node) -> ir.Value:
        x = conv.inputs[0]
        name = name_of(x)
        assert x is not None
        if name not in self.table.ranges:
            raise GraphError(f"the calibration table has no range for '{name}'", "calibrate this very graph again")
        return quantized_value(model, x, name, activation_scale(self.table.ranges[name]), conv)

    def _quantized_weight(self, model: ir.Model, conv: ir.Node, weight: np.ndarray) -> ir.Value:
        name = name_of(conv.inputs[1])
        if f"{name}_quantized" in model.graph.initializers:
            raise GraphError(f"weight '{name}' is shared by two convolutions", "export it again with a weight for each")
        nearest, scale = quantized_weight(weight)
        inputs = [
            add_initializer(model, f"{name}_quantized", self.codes.get(name_of(conv.outputs[0]), nearest)),
            add_initializer(model, f"{name}_scale", scale),
            add_initializer(model, f"{name}_zero_point", np.zeros(len(scale), np.int8)),
        ]
        dequantize = ir.node("DequantizeLinear", inputs, attributes={"axis": 0}, name=f"{name}_dequantize")
        _describe(dequantize.outputs[0], f"{name}_dequantized", ir.DataType.FLOAT, ir.Shape(weight.shape))
        model.graph.insert_before(conv, dequantize)
        return dequantize.outputs[0]


def quantized_value(model: ir.Model, x: ir.Value, name: str, scale: float, reader: ir.Node) -> ir.Value:
    """``x`` through int8 and back, computed before ``reader``; its nodes and constants are named after ``name``."""
    constants = [
        add_initializer(model, f"{name}_scale", np.asarray(scale, np.float32)),
        add_initializer(model, f"{name}_zero_point", np.zeros((), np.int8)),
    ]
    quantize = ir.node("QuantizeLinear", [x, *constants], name=f"{name}_quantize")
    dequantize = ir.node("DequantizeLinear", [quantize.outputs[0], *constants], name=f"{name}_dequantize")
    _describe(quantize.outputs[0], f"{name}_quantized", ir.DataType.INT8, x.shape)
    _describe(dequantize.outputs[0], f"{name}_dequantized", ir.DataType.FLOAT, x.shape)
    model.graph.insert_before(reader, [quantize, dequantize])
    return dequantize.outputs[0]


def float16_ceiling(values: np.ndarray | np.floating) -> np.ndarray:
    """The smallest FP16 numbers not below ``values`` (positive), as float32."""
    values = np.asarray(values, np.float32)
    half = values.astype(np.float16)
    too_small = half.astype(np.float32) < values
    return np.where(too_small, np.nextafter(half, np.float16(np.inf)), half).astype(np.float32)


def activation_scale(seen: Range) -> float:
    """The scale of a tensor with that range, as it is written into the graph."""
    return float(float16_ceiling(np.float32(max(seen.scale, LEAST_FLOAT16))))


def quantized_weight(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Nearest codes, int8 of the weight's shape, and scales, float32 [outputs]."""
    largest = np.abs(weight).reshape(weight.shape[0], -1).max(axis=1)
    scale = float16_ceiling(np.where(largest > 0, largest / INT8_MAX, 1.0).astype(np.float32))
    codes = np.clip(np.round(weight / scale[:, None, None, None]), -INT8_MAX, INT8_MAX).astype(np.int8)
    return codes, scale


def _describe(value: ir.Value, name: str, dtype: ir.DataType, shape: ir.Shape | None) -> None:
    value.name = name
    value.dtype = dtype
    value.shape = shape
