"""Type the body of a graph in FP16; its input and output stay FP32.

A strongly typed runtime (TensorRT 11, TensorRT for RTX) builds what the graph says: without this pass an FP32 graph
silently becomes an FP32 engine. Every float32 constant becomes float16, and one Cast stands at each end; a Cast from
uint8 pixels goes to float16 at once. Q/DQ scales
become float16 too (opset ≥ 19); int8 weights are untouched.
"""

import numpy as np
import onnx_ir as ir

from dnexport.errors import GraphError
from dnexport.graph.contract import PassResult
from dnexport.graph.values import name_of, set_array

_LARGEST = float(np.finfo(np.float16).max)


class CastFloat16:
    """FP32 body to FP16 body."""

    name = "cast_float16"

    def __call__(self, model: ir.Model) -> PassResult:
        graph = model.graph
        if any(value.dtype == ir.DataType.FLOAT16 for value in graph.initializers.values()):
            return PassResult(model, False, ("the graph already holds float16 constants",))
        for value in graph.initializers.values():
            if value.dtype == ir.DataType.FLOAT:
                set_array(value, _half(value))
        for node in graph:
            if _from_pixels(node):
                node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT16.value)
            elif node.op_type in ("Constant", "Cast"):
                raise GraphError(
                    f"node {node.name} is a {node.op_type}, which an FP16 body cannot be typed around",
                    "export the graph again with dnexport",
                )
            for output in node.outputs:
                if output.dtype == ir.DataType.FLOAT:
                    output.dtype = ir.DataType.FLOAT16
        for value in graph.inputs:
            if value.dtype == ir.DataType.FLOAT:
                _cast_input(graph, value)
        for index, value in enumerate(list(graph.outputs)):
            _cast_output(graph, index, value)
        return PassResult(model, True)


def _from_pixels(node: ir.Node) -> bool:
    source = node.inputs[0] if node.op_type == "Cast" else None
    return source is not None and source.dtype == ir.DataType.UINT8 and source.is_graph_input()


def _half(value: ir.Value) -> np.ndarray:
    assert value.const_value is not None
    array = value.const_value.numpy()
    largest = float(np.abs(array).max(initial=0.0))
    if largest > _LARGEST:
        raise GraphError(
            f"constant '{name_of(value)}' holds {largest:g}, above FP16's largest number {_LARGEST:g}",
            "build --fp32, or train with weight decay",
        )
    half = array.astype(np.float16)
    scales = any(use.idx == 1 and use.node.op_type in ("QuantizeLinear", "DequantizeLinear") for use in value.uses())
    if scales and not half.all():
        raise GraphError(
            f"scale '{name_of(value)}' underflows in FP16", "calibrate again; a tensor is almost constant zero"
        )
    return half


def _cast_input(graph: ir.Graph, value: ir.Value) -> None:
    cast = ir.node("Cast", [value], attributes={"to": ir.DataType.FLOAT16.value}, name=f"{value.name}_to_float16")
    half = cast.outputs[0]
    half.name, half.dtype, half.shape = f"{value.name}_float16", ir.DataType.FLOAT16, value.shape
    first = next(iter(graph))
    value.replace_all_uses_with(half)
    cast.replace_input_with(0, value)
    graph.insert_before(first, cast)


def _cast_output(graph: ir.Graph, index: int, value: ir.Value) -> None:
    name, shape = value.name, value.shape
    value.name = f"{name}_float16"
    cast = ir.node("Cast", [value], attributes={"to": ir.DataType.FLOAT.value}, name=f"{name}_to_float32")
    result = cast.outputs[0]
    result.name, result.dtype, result.shape = name, ir.DataType.FLOAT, shape
    graph.append(cast)
    graph.outputs[index] = result
