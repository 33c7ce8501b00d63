"""Find the dense blocks of a graph: concatenations over channels that share what they concatenate.

Layer i of a block reads [x₀, h₁, …, h_{i−1}]. The exported graph has a Concat for each layer; those that read a common
tensor, or one another, belong together. Their *states* x₀, h₁, … are what is computed once and read by all that follow.
"""

from dataclasses import dataclass

import onnx_ir as ir

from dnexport.graph.values import name_of


@dataclass(frozen=True)
class DenseBlock:
    """The concatenations of one block.

    Attributes:
        name: of the last concatenation's output.
        states: what is concatenated and is no concatenation itself, in the order of the graph.
        concats: in the order of the graph.
    """

    name: str
    states: tuple[ir.Value, ...]
    concats: tuple[ir.Node, ...]

    def channels(self, concat: ir.Node) -> tuple[ir.Value, ...]:
        """The states that a concatenation holds, in the order of its channels."""
        held: list[ir.Value] = []
        for value in concat.inputs:
            assert value is not None
            producer = value.producer()
            held += self.channels(producer) if producer in self.concats else [value]
        return tuple(held)


def dense_blocks(model: ir.Model) -> tuple[DenseBlock, ...]:
    """All blocks, in the order of the graph."""
    concats = [node for node in model.graph if _is_dense(node)]
    groups: list[tuple[list[ir.Node], set[ir.Value]]] = []
    for concat in concats:
        known = {value for value in concat.inputs if value is not None}
        nodes = [concat]
        for group in [group for group in groups if group[1] & known]:
            groups.remove(group)
            nodes = [*group[0], *nodes]
            known |= group[1]
        groups.append((nodes, known | set(concat.outputs)))
    return tuple(_block(nodes) for nodes, _ in groups)


def states(model: ir.Model) -> tuple[str, ...]:
    """Names of the states of all blocks."""
    return tuple(dict.fromkeys(name_of(state) for block in dense_blocks(model) for state in block.states))


def _is_dense(node: ir.Node) -> bool:
    shape = node.outputs[0].shape
    pictures = shape is None or len(shape) == 4
    return node.op_type == "Concat" and node.attributes.get_int("axis", 0) == 1 and len(node.inputs) > 1 and pictures


def _block(nodes: list[ir.Node]) -> DenseBlock:
    outputs = {node.outputs[0] for node in nodes}
    held = dict.fromkeys(v for node in nodes for v in node.inputs if v is not None and v not in outputs)
    return DenseBlock(name_of(nodes[-1].outputs[0]), tuple(held), tuple(nodes))
