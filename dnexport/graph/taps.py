"""The last value of each resolution at which a graph can be cut in two (`cuts`).

In a DenseNet these are the ends of the stem and of its blocks. An engine that answers wrongly is compared there
(`deploy.taps`), which names the first part that goes wrong.
"""

from collections.abc import Sequence

import onnx_ir as ir

from dnexport.graph.cuts import cuts

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
    for _, value in cuts(model):
        producer, shape = value.producer(), value.shape
        if shape is None or len(shape) != 4 or producer is None or producer.op_type in _RESTATED:
            continue
        if value.name and all(value.name in names for names in kept):
            last[tuple(shape[2:])] = value.name
    return tuple(last.values())
