"""What in an ONNX graph will hurt in INT8 or on TensorRT, why, and what to do. Each rule is a function below."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from dnexport.graph.values import constant_array, has_quantized_weights

_LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
_LEAST_NORMAL_FLOAT16 = float(np.finfo(np.float16).smallest_normal)
_LEAST_OPSET = 13
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


class Finding(NamedTuple):
    """Something that will hurt.

    Attributes:
        rule: its name.
        where: nodes or constants.
        why: what it costs.
        remedy: what to do.
    """

    rule: str
    where: tuple[str, ...]
    why: str
    remedy: str


def findings(model: ir.Model) -> list[Finding]:
    """All that the rules find, in their order; nothing is changed."""
    found = []
    for rule, (look, why, remedy) in _RULES.items():
        where = tuple(look(model))
        if where:
            found.append(Finding(rule, where, why, remedy))
    return found


def _opset(model: ir.Model) -> Iterator[str]:
    version = model.opset_imports.get("", 0)
    if version < _LEAST_OPSET:
        yield f"opset {version}"


def _unfused_norm(model: ir.Model) -> Iterator[str]:
    for node in model.graph:
        if node.op_type != "BatchNormalization" or node.inputs[0] is None:
            continue
        producer = node.inputs[0].producer()
        if producer is not None and producer.op_type == "Conv" and len(node.inputs[0].uses()) == 1:
            yield _name(node)


def _single_concat(model: ir.Model) -> Iterator[str]:
    return (_name(node) for node in model.graph if node.op_type == "Concat" and len(node.inputs) == 1)


def _late_pool(model: ir.Model) -> Iterator[str]:
    for node in model.graph:
        producer = node.inputs[0].producer() if node.op_type == "AveragePool" and node.inputs[0] is not None else None
        weight = constant_array(producer.inputs[1]) if producer is not None and producer.op_type == "Conv" else None
        if weight is not None and weight.shape[2:] == (1, 1):
            yield _name(node)


def _int32_bias(model: ir.Model) -> Iterator[str]:
    for node in model.graph:
        bias = node.inputs[2] if node.op_type == "Conv" and len(node.inputs) > 2 else None
        producer = bias.producer() if bias is not None else None
        if producer is not None and producer.op_type == "DequantizeLinear":
            yield _name(node)


def _zero_point(model: ir.Model) -> Iterator[str]:
    for node, zero in _zero_points(model):
        if zero.any():
            yield _name(node)


def _uint8(model: ir.Model) -> Iterator[str]:
    for node, zero in _zero_points(model):
        if zero.dtype == np.uint8 and not zero.any():
            yield _name(node)


def _overflow(model: ir.Model) -> Iterator[str]:
    for name, value in model.graph.initializers.items():
        array = constant_array(value)
        if array is not None and array.dtype == np.float32 and array.size and np.abs(array).max() > _LARGEST_FLOAT16:
            yield name


def _scale_underflow(model: ir.Model) -> Iterator[str]:
    for node in model.graph:
        scale = constant_array(node.inputs[1]) if node.op_type in _QUANTIZERS else None
        if scale is not None and scale.min(initial=1) < _LEAST_NORMAL_FLOAT16:
            yield _name(node)


def _quantized_output(model: ir.Model) -> Iterator[str]:
    """A concatenation that is quantized as a whole: one scale for all of a dense block's channels."""
    for node in model.graph:
        if node.op_type == "Concat" and any(use.node.op_type == "QuantizeLinear" for use in node.outputs[0].uses()):
            yield _name(node)


def _wide_groups(model: ir.Model) -> Iterator[str]:
    for node in model.graph:
        if node.op_type != "Conv" or node.attributes.get_int("group", 1) == 1 or not has_quantized_weights(node):
            continue
        shape = node.inputs[1].shape if node.inputs[1] is not None else None
        if shape is None or list(shape)[2:] != [1, 1]:
            continue
        channels = shape[1]
        if isinstance(channels, int) and channels > 64 and channels % 64:
            yield _name(node)


def _biasless(model: ir.Model) -> Iterator[str]:
    for node in model.graph:
        if node.op_type != "Conv" or not has_quantized_weights(node):
            continue
        bias = constant_array(node.inputs[2]) if len(node.inputs) > 2 else None
        readers = {use.node.op_type for use in node.outputs[0].uses()}
        if (bias is None or not bias.any()) and {"Concat", "BatchNormalization"} <= readers:
            yield _name(node)


def _zero_points(model: ir.Model) -> Iterator[tuple[ir.Node, np.ndarray]]:
    for node in model.graph:
        if node.op_type in _QUANTIZERS and len(node.inputs) > 2:
            zero = constant_array(node.inputs[2])
            if zero is not None and zero.dtype != np.int32:
                yield node, zero


def _name(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type


_RULES: dict[str, tuple[Callable[[ir.Model], Iterator[str]], str, str]] = {
    "opset too low": (
        _opset,
        "per-channel Q/DQ needs opset 13, FP16 scales need 19",
        "export it again with opset 19, or convert it with onnx.version_converter",
    ),
    "unfused batch norm": (
        _unfused_norm,
        "a pass over memory, and a quantization point, that the convolution could do itself",
        "fold it: 'dnexport export' does",
    ),
    "concatenation of one input": (
        _single_concat,
        "a copy in some runtimes, and a place where quantizers put scales of their own",
        "drop it: export with torch.onnx.export(dynamo=True), as 'dnexport export' does",
    ),
    "pooling behind a 1×1 convolution": (
        _late_pool,
        "the convolution computes four times the pixels that are kept",
        "pool first, which is the same: 'dnexport export' does",
    ),
    "int32 bias": (
        _int32_bias,
        "TensorRT's parser refuses int32 DequantizeLinear, and with FP16 scales s_x·s_w underflows",
        "keep biases in float (ONNX Runtime: extra_options QuantizeBias=False)",
    ),
    "zero point that is not zero": (
        _zero_point,
        "TensorRT takes symmetric quantization only",
        "quantize symmetrically (ONNX Runtime: ActivationSymmetric=True)",
    ),
    "uint8 data": (
        _uint8,
        "TensorRT takes int8 only",
        "quantize to int8 (ONNX Runtime: activation_type=QuantType.QInt8)",
    ),
    "FP16 overflow": (_overflow, "the constant becomes infinite in FP16", "build --fp32, or rescale the layer"),
    "FP16 scale underflow": (
        _scale_underflow,
        "the scale loses digits or becomes 0 in FP16",
        "calibrate again; a tensor is almost constant",
    ),
    "one scale for a concatenation": (
        _quantized_output,
        "the channels of a dense block differ in range, and the widest sets the step of all",
        "quantize what each convolution reads instead, as 'dnexport build --int8' does",
    ),
    "grouped INT8 convolution of odd width": (
        _wide_groups,
        "OpenVINO 2026.4.1 computes a wrong result for more than 64 channels a group that are no multiple of 64",
        "pad the groups with zero weights: 'dnexport build --int8' does for OpenVINO",
    ),
    "INT8 convolution without bias, norm and concatenation behind it": (
        _biasless,
        "OpenVINO 2026.4.1 computes a wrong result",
        "give it a bias of 1e-6: 'dnexport build --int8' does for OpenVINO",
    ),
}
