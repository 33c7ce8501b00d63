from pathlib import Path

from dnexport.graph.contract import model_from_path
from dnexport.graph.dense_blocks import dense_blocks, states
from tests.graph.texts import model_from_text, random


def test_the_blocks_of_a_densenet(tiny_graph: Path) -> None:
    """Two blocks of two layers: x₀ and two h each; a concatenation for the second layer and one for what follows."""
    model = model_from_path(tiny_graph)
    blocks = dense_blocks(model)
    assert [len(block.states) for block in blocks] == [3, 3]
    assert [len(block.concats) for block in blocks] == [2, 2]
    assert len(states(model)) == 6
    for block in blocks:
        assert block.name == block.concats[-1].outputs[0].name
        assert block.channels(block.concats[-1]) == block.states


def test_nested_concatenations_are_one_block() -> None:
    body = """
        a = Relu(input)  b = Neg(input)  c = Abs(input)
        ab = Concat<axis=1>(a, b)  r = Relu(ab)
        cab = Concat<axis=1>(c, ab)  logits = Conv<kernel_shape=[1,1]>(cab, w)
    """
    model = model_from_text(body, {"w": random(2, 12, 1, 1)}, out="[batch, 2, 8, 8]")
    (block,) = dense_blocks(model)
    assert [state.name for state in block.states] == ["a", "b", "c"]
    assert [value.name for value in block.channels(block.concats[-1])] == ["c", "a", "b"]


def test_other_concatenations_are_no_blocks() -> None:
    body = "r = Relu(input) high = Concat<axis=2>(r, input) logits = Conv<kernel_shape=[1,1]>(high, w)"
    model = model_from_text(body, {"w": random(2, 4, 1, 1)}, out="[batch, 2, 16, 8]")
    assert dense_blocks(model) == ()
