"""Run a graph over images and show each observer its tensor.

The reductions run inside of the graph: two scalars an image and tensor come out, not the tensor. Keeping every tensor
of densenet121 would cost 175 MB an image.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from dnexport.calibrate.observers import observer
from dnexport.data.images import InputPart
from dnexport.errors import GraphError
from dnexport.graph.contract import INPUT
from dnexport.graph.values import add_initializer
from dnexport.runtimes.onnxruntime import float_session
from dnexport.spec.quantization import ObserverName, Range

if TYPE_CHECKING:
    import onnxruntime


def ranges_from_batches(
    model: ir.Model,
    tensors: Sequence[str],
    batches: Iterable[InputPart],
    name: ObserverName,
    tick: Callable[[int], None],
) -> dict[str, Range]:
    """Ranges of ``tensors`` over ``batches``.

    Args:
        model: float graph; changed by this function, pass a copy.
        tensors: names of values in the graph.
        batches: float32 inputs.
        name: of the observer.
        tick: told the number of images after each batch.

    Raises:
        GraphError: a tensor is not in the graph.
        DataError: a tensor is not finite.
    """
    session = _tapped_session(model, tensors)
    observers = {tensor: observer(name) for tensor in tensors}
    for images in batches:
        extremes = session.run(
            [f"tap{i}_{end}" for i in range(len(tensors)) for end in ("low", "high")], {INPUT: images}
        )
        for index, tensor in enumerate(tensors):
            observers[tensor].update(extremes[2 * index], extremes[2 * index + 1])
        tick(len(images))
    return {tensor: observers[tensor].range(tensor) for tensor in tensors}


def _tapped_session(model: ir.Model, tensors: Sequence[str]) -> "onnxruntime.InferenceSession":
    """The graph with a ReduceMin and a ReduceMax over all axes but the batch for each tensor."""
    graph = model.graph
    values = {value.name: value for value in (*graph.inputs, *(output for node in graph for output in node.outputs))}
    axes = add_initializer(model, "tap_axes", np.array([1, 2, 3], np.int64))
    for index, tensor in enumerate(tensors):
        if tensor not in values:
            raise GraphError(f"the graph has no tensor '{tensor}'", "calibrate this very graph again")
        for operator, end in (("ReduceMin", "low"), ("ReduceMax", "high")):
            node = ir.node(operator, [values[tensor], axes], attributes={"keepdims": 0}, name=f"tap{index}_{end}")
            node.outputs[0].name = f"tap{index}_{end}"
            node.outputs[0].dtype = ir.DataType.FLOAT
            node.outputs[0].shape = ir.Shape(["batch"])
            graph.append(node)
            graph.outputs.append(node.outputs[0])
    return float_session(ir.to_proto(model).SerializeToString())
