"""Move a transition's average pooling in front of its 1×1 convolution.

Both are linear, one acts on pixels and the other on channels, so they commute exactly:

    AvgPool(W·x + b)  =  W·AvgPool(x) + b        (no padding: every window averages the same number of pixels)

The convolution then sees a quarter of the pixels: −8 % multiply-adds for densenet121.
"""

import onnx_ir as ir

from dnexport.graph.contract import PassResult


class PoolBeforeConv:
    """Conv1×1 → AveragePool becomes AveragePool → Conv1×1."""

    name = "pool_before_conv"

    def __call__(self, model: ir.Model) -> PassResult:
        modified = False
        reasons: list[str] = []
        for pool in list(model.graph):
            conv = pool.inputs[0].producer() if pool.op_type == "AveragePool" and pool.inputs[0] is not None else None
            if conv is None or conv.op_type != "Conv":
                continue
            if reason := _obstacle(conv, pool):
                reasons.append(f"{pool.name}: {reason}")
                continue
            _swap(model.graph, conv, pool)
            modified = True
        return PassResult(model, modified, tuple(reasons))


def transition_pools(model: ir.Model) -> tuple[ir.Node, ...]:
    """The average poolings of pictures that only convolutions read."""
    return tuple(
        node
        for node in model.graph
        if averages_pictures(node) and {use.node.op_type for use in node.outputs[0].uses()} == {"Conv"}
    )


def averages_pictures(node: ir.Node) -> bool:
    """Whether a node averages whole windows of a picture and leaves one; a single pixel is for a classifier or gate."""
    if node.op_type != "AveragePool" or len(node.attributes.get_ints("kernel_shape", ())) != 2:
        return False
    left = node.outputs[0].shape
    return partial_windows(node) is None and (left is None or list(left)[2:] != [1, 1])


def partial_windows(pool: ir.Node) -> str | None:
    """Why the windows at a pooling's border may average fewer pixels than the others; None if none does."""
    if any(pool.attributes.get_ints("pads", (0, 0, 0, 0))):
        return "padding: windows at the border would average fewer pixels"
    if pool.attributes.get_int("ceil_mode", 0):
        return "ceil_mode: windows at the border would average fewer pixels"
    if pool.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return "auto_pad: padding is not known"
    return None


def _obstacle(conv: ir.Node, pool: ir.Node) -> str | None:
    weight = conv.inputs[1]
    if weight is None or weight.shape is None or list(weight.shape)[2:] != [1, 1]:
        return f"{conv.name} is not a 1×1 convolution"
    if any(stride != 1 for stride in conv.attributes.get_ints("strides", (1, 1))):
        return f"{conv.name} has a stride"
    if any(conv.attributes.get_ints("pads", (0, 0, 0, 0))):
        return f"{conv.name} has padding"
    if (reason := partial_windows(pool)) is not None:
        return reason
    if len(conv.outputs[0].uses()) > 1 or conv.outputs[0].is_graph_output():
        return f"{conv.name} is read by another node"
    return None


def _swap(graph: ir.Graph, conv: ir.Node, pool: ir.Node) -> None:
    x, between, result = conv.inputs[0], conv.outputs[0], pool.outputs[0]
    assert x is not None
    pooled_shape = result.shape
    if result.is_graph_output():
        between.name, result.name = result.name, between.name
    result.replace_all_uses_with(between, replace_graph_outputs=True)
    pool.replace_input_with(0, x)
    conv.replace_input_with(0, result)
    if pooled_shape is not None and x.shape is not None:
        between.shape = pooled_shape
        result.shape = ir.Shape([x.shape[0], x.shape[1], *pooled_shape[2:]])
    graph.remove(pool)
    graph.insert_before(conv, pool)
