"""Where a graph can be cut in two: the values through which everything flows."""

from typing import NamedTuple

import onnx_ir as ir


class Cut(NamedTuple):
    """One such value.

    Attributes:
        after: how many nodes of the graph come before the cut.
        value: the only one still needed there.
    """

    after: int
    value: ir.Value


def cuts(model: ir.Model) -> list[Cut]:
    """All of them, from the input to the last before the output, each where it comes first.

    What is computed of constants alone, such as a dequantized weight, cuts nothing and hides no cut.
    """
    needed = {value: uses for value in model.graph.inputs if value.const_value is None and (uses := _uses(value))}
    fed = set(model.graph.inputs)
    found = {value: 0 for value in needed if len(needed) == 1}
    for after, node in enumerate(model.graph, 1):
        for value in set(node.inputs):
            if value in needed:
                needed[value] -= 1
                if not needed[value]:
                    del needed[value]
        if fed.isdisjoint(value for value in node.inputs if value is not None):
            continue
        fed.update(node.outputs)
        needed.update((value, uses) for value in node.outputs if (uses := _uses(value)))
        if len(needed) == 1:
            found.setdefault(next(iter(needed)), after)
    return [Cut(after, value) for value, after in found.items()]


def _uses(value: ir.Value) -> int:
    """How many nodes compute with a value; asking for its shape does not count, nor do whole numbers."""
    if value.dtype not in (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.INT8, ir.DataType.UINT8):
        return 0
    return len({use.node for use in value.uses() if use.node.op_type != "Shape"})
