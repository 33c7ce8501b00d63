"""The parts of a network, read off the structure of its graph: stem, dense blocks, what lies between them, head.

Between two neighbouring cuts (`cuts`) lies a segment. It is dense where a concatenation over channels joins a value and
what is computed of it: the step [x, H(x)] of a dense block. A graph that concatenates flat lists has one such segment a
block, and one that nests its concatenations one a layer. Dense segments at one resolution without a convolution between
them are one block. No name is read, so foreign graphs have parts as well, and lowered ones the same as before.
"""

from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import NamedTuple

import onnx_ir as ir

from dnexport.graph.cuts import Cut, cuts

# What restates a value and computes nothing new.
_RESTATES = ("QuantizeLinear", "DequantizeLinear", "Cast", "Identity")


class Part(NamedTuple):
    """A stretch of the graph.

    Attributes:
        name: ``stem``, ``block 1``, ``transition 1``, …, ``head``.
        nodes: in the order of the graph.
    """

    name: str
    nodes: tuple[ir.Node, ...]


def parts_from_model(model: ir.Model) -> tuple[Part, ...]:
    """Every node in one part, in the order of the graph; no parts where no segment is dense."""
    nodes = tuple(model.graph)
    blocks = _blocks(nodes, cuts(model))
    if not blocks:
        return ()
    parts = [Part("stem", nodes[: blocks[0][0]])]
    ends = [*(start for start, _ in blocks[1:]), len(nodes)]
    for number, ((start, end), following) in enumerate(zip(blocks, ends, strict=True), 1):
        last = number == len(blocks)
        parts.append(Part(f"block {number}", nodes[start:end]))
        parts.append(Part("head" if last else f"transition {number}", nodes[end:following]))
    return tuple(part for part in parts if part.nodes)


def _blocks(nodes: Sequence[ir.Node], found: Sequence[Cut]) -> list[tuple[int, int]]:
    """(first node, one after the last) of each block."""
    blocks: list[tuple[int, int, ir.Value]] = []
    for entry, leave in pairwise(found):
        if not _is_dense(nodes[entry.after : leave.after]):
            continue
        start = entry.after
        if blocks and _joined(blocks[-1][2], nodes[blocks[-1][1] : start], leave.value):
            start = blocks.pop()[0]
        blocks.append((start, leave.after, leave.value))
    return [(start, end) for start, end, _ in blocks]


def _joined(left: ir.Value, between: Sequence[ir.Node], leaves: ir.Value) -> bool:
    """Whether a dense segment that ends with ``leaves`` is more of the block that ended with ``left``."""
    return not any(node.op_type == "Conv" for node in between) and _pixels(left) == _pixels(leaves)


def _pixels(value: ir.Value) -> tuple[object, ...] | None:
    return tuple(value.shape[2:]) if value.shape is not None else None


def _is_dense(segment: Sequence[ir.Node]) -> bool:
    inside = set(segment)
    for node in segment:
        if node.op_type != "Concat" or node.attributes.get_int("axis", 0) != 1:
            continue
        joined = {_source(value) for value in node.inputs if value is not None}
        if any(joined & _behind(value, inside) for value in joined):
            return True
    return False


def _source(value: ir.Value) -> ir.Value:
    """What a value restates."""
    node = value.producer()
    while node is not None and node.op_type in _RESTATES and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _behind(value: ir.Value, inside: Collection[ir.Node]) -> set[ir.Value]:
    """All that a value is computed of by the nodes ``inside``, itself not counted; with what that restates."""
    seen: set[ir.Value] = set()
    ahead = [value]
    while ahead:
        node = ahead.pop().producer()
        if node is not None and node in inside:
            new = {each for each in node.inputs if each is not None} - seen
            seen |= new
            ahead += new
    return seen | {_source(each) for each in seen}
