"""Count what a graph holds: operators, and the precision in which its convolutions are written."""

import math
from collections import Counter

import onnx_ir as ir

from dnexport.spec.metrics import Census

_WORDS = {ir.DataType.FLOAT: "f32", ir.DataType.FLOAT16: "f16", ir.DataType.BFLOAT16: "bf16"}


def census_from_model(model: ir.Model) -> Census:
    """Operators by name, and shares of the convolutions' multiply-adds by precision.

    A convolution counts as ``int8`` where both of its operands come out of DequantizeLinear, else as the type of
    its input. Shapes must be known but for the batch.
    """
    macs: Counter[str] = Counter()
    by_name = {}
    for node in model.graph:
        if node.op_type == "Conv":
            by_name[node.name or ""] = _macs(node)
            macs[_precision(node)] += _macs(node)
    total = sum(macs.values())
    operators = Counter(node.op_type for node in model.graph)
    shares = {word: count / total for word, count in sorted(macs.items())} if total else {}
    return Census(operators=dict(sorted(operators.items())), conv_macs_by_precision=shares, conv_macs=by_name)


def _precision(conv: ir.Node) -> str:
    producers = [value.producer() if value is not None else None for value in conv.inputs[:2]]
    if all(producer is not None and producer.op_type == "DequantizeLinear" for producer in producers):
        return "int8"
    dtype = conv.inputs[0].dtype if conv.inputs[0] is not None else None
    return _WORDS.get(dtype, str(dtype)) if dtype is not None else "unknown"


def _macs(conv: ir.Node) -> int:
    weight, output = conv.inputs[1], conv.outputs[0]
    if weight is None or weight.shape is None or output.shape is None:
        return 0
    return math.prod(dim for dim in (*weight.shape, *output.shape[2:]) if isinstance(dim, int))
