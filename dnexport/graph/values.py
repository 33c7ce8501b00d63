"""Reading and replacing constant inputs of nodes: the few moves that every pass needs."""

import numpy as np
import onnx_ir as ir

from dnexport.errors import GraphError


def constant_array(value: ir.Value | None) -> np.ndarray | None:
    """The array behind an initializer, or None for anything computed or fed."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    return value.const_value.numpy()


def add_initializer(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    """Register a new constant under ``name``.

    Raises:
        GraphError: the name is taken.
    """
    if name in model.graph.initializers:
        raise GraphError(f"the graph already has a constant '{name}'", "the same pass may have run before")
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    model.graph.register_initializer(value)
    return value


def replace_constant(model: ir.Model, node: ir.Node, index: int, name: str, array: np.ndarray) -> None:
    """Let a node read a new constant; the old one goes if nothing else reads it."""
    old = node.inputs[index]
    node.replace_input_with(index, add_initializer(model, name, array))
    if (
        old is not None
        and old.name
        and old.name in model.graph.initializers
        and not old.uses()
        and not old.is_graph_output()
    ):
        model.graph.initializers.pop(old.name)


def add_to_bias(model: ir.Model, conv: ir.Node, name: str, values: np.ndarray) -> None:
    """Let a convolution add ``values``, [outputs], to what it adds already."""
    bias = constant_array(conv.inputs[2]) if len(conv.inputs) > 2 else None
    if bias is None:
        conv.resize_inputs(3)
        conv.replace_input_with(2, add_initializer(model, name, values))
    else:
        replace_constant(model, conv, 2, name, (bias + values).astype(np.float32))


def remove_unused(model: ir.Model) -> None:
    """Drop constants that nothing reads any more."""
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            model.graph.initializers.pop(name)


def set_array(value: ir.Value, array: np.ndarray) -> None:
    """Give a constant a new content, with its type and shape."""
    tensor = ir.tensor(array, name=value.name)
    value.const_value = tensor
    value.shape = ir.Shape(array.shape)
    value.dtype = tensor.dtype


def set_channels(value: ir.Value, axis: int, channels: int) -> None:
    """Correct one dimension of a value's known shape."""
    if value.shape is not None:
        dimensions = list(value.shape)
        dimensions[axis] = channels
        value.shape = ir.Shape(dimensions)


def kernel_of(conv: ir.Node) -> tuple[int, ...]:
    """Height and width of a convolution's kernel; () where its weight's shape is not known."""
    weight = conv.inputs[1]
    sides = list(weight.shape)[2:] if weight is not None and weight.shape is not None else []
    return tuple(side for side in sides if isinstance(side, int))


def has_quantized_weights(conv: ir.Node) -> bool:
    """Whether a convolution's weights are dequantized, and so it runs in int8."""
    producer = conv.inputs[1].producer() if conv.inputs[1] is not None else None
    return producer is not None and producer.op_type == "DequantizeLinear"


def name_of(value: ir.Value | None) -> str:
    """The name of a value that must have one.

    Raises:
        GraphError: the value is absent or anonymous.
    """
    if value is None or value.name is None:
        raise GraphError("the graph has an unnamed value where a name is needed", "export it again")
    return value.name
