"""Count what a graph holds: operators, the precision of its convolutions, and the work of each part."""

import math
from collections import Counter

import onnx_ir as ir

from dnexport.graph.parts import Part, parts_from_model
from dnexport.spec.metrics import Census, PartCensus, Product

_PRODUCTS = ("Conv", "Gemm", "MatMul")
# What a runtime computes before it writes the result of a product.
_WRITTEN_WITH = ("Relu", "Clip", "QuantizeLinear")
_WORDS = {ir.DataType.FLOAT: "f32", ir.DataType.FLOAT16: "f16", ir.DataType.BFLOAT16: "bf16"}


def census_from_model(model: ir.Model) -> Census:
    """Operators by name, shares of the convolutions' multiply-adds by precision, and the parts of the network.

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
    return Census(
        operators=dict(sorted(operators.items())),
        conv_macs_by_precision=shares,
        conv_macs=by_name,
        parts=tuple(_part(part) for part in parts_from_model(model)),
    )


def _precision(conv: ir.Node) -> str:
    producers = [value.producer() if value is not None else None for value in conv.inputs[:2]]
    if all(producer is not None and producer.op_type == "DequantizeLinear" for producer in producers):
        return "int8"
    dtype = conv.inputs[0].dtype if conv.inputs[0] is not None else None
    return _WORDS.get(dtype, str(dtype)) if dtype is not None else "unknown"


def _part(part: Part) -> PartCensus:
    """What a part computes; runtimes name its kernels by nodes or by what these give."""
    given = [v.name for n in part.nodes if n.op_type not in ("QuantizeLinear", "DequantizeLinear") for v in n.outputs]
    return PartCensus(
        part=part.name,
        nodes=tuple(node.name for node in part.nodes if node.name),
        values=tuple(name for name in given if name),
        products=tuple(_product(node) for node in part.nodes if node.op_type in _PRODUCTS),
    )


def _product(node: ir.Node) -> Product:
    written = _written(node.outputs[0])
    read = [_stored(value) for value in node.inputs if value is not None]
    return Product(
        names=tuple(name for name in (node.name, *(value.name for value in written)) if name),
        macs=_macs(node),
        bytes=sum(_size(value) for value in (*read, written[-1])),
    )


def _macs(product: ir.Node) -> int:
    """Multiply-adds an image of a convolution or a matrix product; 0 where its shapes are not known."""
    weight, output = product.inputs[1], product.outputs[0]
    if weight is None or weight.shape is None or output.shape is None:
        return 0
    # [images, channels, …] of a convolution, [images, …, columns] of a matrix product.
    spread = output.shape[2:] if product.op_type == "Conv" else output.shape[1:-1]
    return math.prod(dim for dim in (*weight.shape, *spread) if isinstance(dim, int))


def _stored(value: ir.Value) -> ir.Value:
    """What is read of memory: the integers behind a dequantization."""
    node = value.producer()
    quantized = node.inputs[0] if node is not None and node.op_type == "DequantizeLinear" else None
    return quantized if quantized is not None else value


def _written(value: ir.Value) -> list[ir.Value]:
    """A result and what a runtime may make of it before it is written: the last is what memory gets."""
    values = [value]
    while len(uses := list(values[-1].uses())) == 1 and uses[0].node.op_type in _WRITTEN_WITH:
        values.append(uses[0].node.outputs[0])
    return values


def _size(value: ir.Value) -> int:
    """Bytes an image: of constants all, of activations without the first dimension."""
    if value.shape is None or value.dtype is None:
        return 0
    dims = value.shape if value.const_value is not None else value.shape[1:]
    return math.prod(dim for dim in dims if isinstance(dim, int)) * int(value.dtype.itemsize)
