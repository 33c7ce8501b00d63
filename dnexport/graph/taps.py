"""Where a graph can be cut in two: the values through which everything flows, the last of each resolution.

In a DenseNet these are the ends of the stem and of its blocks. An engine that answers wrongly is compared there
(`deploy.taps`), which names the first part that goes wrong.
"""

from collections.abc import Sequence

import onnx_ir as ir

# What a lowering restates: such a value may keep its name and mean something else.
_RESTATED = ("QuantizeLinear", "DequantizeLinear", "Cast", "Mul", "Sub", "Pad")


def tap_names(model: ir.Model, lowered: Sequence[ir.Model]) -> tuple[str, ...]:
    """Names of feature maps, [batch, channels, height, width], from the input to the output.

    Args:
        model: the canonical graph, with its Q/DQ.
        lowered: what became of it; a value that one of them does not have is no tap.
    """
    kept = [{output.name for node in each.graph for output in node.outputs} for each in lowered]
    last: dict[tuple[object, ...], str] = {}
    for value in _cuts(model):
        producer, shape = value.producer(), value.shape
        if shape is None or len(shape) != 4 or producer is None or producer.op_type in _RESTATED:
            continue
        if value.name and all(value.name in names for names in kept):
            last[tuple(shape[2:])] = value.name
    return tuple(last.values())


def _cuts(model: ir.Model) -> list[ir.Value]:
    """Values that are the only ones still needed, once they are there."""
    needed = {value: _uses(value) for value in model.graph.inputs}
    cuts: list[ir.Value] = []
    for node in model.graph:
        for value in set(node.inputs):
            if value in needed:
                needed[value] -= 1
                if not needed[value]:
                    del needed[value]
        for value in node.outputs:
            if _uses(value):
                needed[value] = _uses(value)
        if len(needed) == 1:
            cuts += needed
    return cuts


def _uses(value: ir.Value) -> int:
    """How many nodes compute with a value; asking for its shape does not count, nor do whole numbers."""
    if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8):
        return 0
    return len({use.node for use in value.uses() if use.node.op_type != "Shape"})
