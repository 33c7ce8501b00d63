"""Placement *state*: hold a dense block's concatenation in int8, with one scale a block.

    x̂_c = s·clip(round(x_c/s), −128, 127),   s = max over all channels c of the block |x_c| / 127

Each state is quantized once, where it is computed; equal scales let a runtime concatenate the codes as they are, a
quarter of the bytes, and every layer of the block reads codes. One scale for channels of different range costs
accuracy, which `equalize_state` gives back.
"""

from collections.abc import Collection, Mapping, Sequence

import onnx_ir as ir

from dnexport.graph.contract import PassResult
from dnexport.graph.dense_blocks import DenseBlock, dense_blocks
from dnexport.graph.insert_qdq import activation_scale, quantized_value
from dnexport.graph.values import name_of
from dnexport.spec.quantization import Range


class QuantizeState:
    """Quantize the states of every dense block.

    Args:
        magnitudes: the largest |x| of each channel, by the name of the state.
        kept: names of blocks that stay in float.
    """

    name = "quantize_state"

    def __init__(self, magnitudes: Mapping[str, Sequence[float]], kept: Collection[str] = ()) -> None:
        self.magnitudes = magnitudes
        self.kept = kept

    def __call__(self, model: ir.Model) -> PassResult:
        modified = False
        reasons: list[str] = []
        for block in dense_blocks(model):
            if block.name in self.kept:
                reasons.append(f"{block.name}: stays in float")
                continue
            if (unknown := next((s.name for s in block.states if s.name not in self.magnitudes), None)) is not None:
                reasons.append(f"{block.name}: the calibration table does not know '{unknown}'")
                continue
            scale = state_scale(block, self.magnitudes)
            for state in block.states:
                _quantize(model, state, scale)
            modified = True
        return PassResult(model, modified, tuple(reasons))


def state_scale(block: DenseBlock, magnitudes: Mapping[str, Sequence[float]]) -> float:
    """The scale of all states of a block."""
    largest = max(max(magnitudes[name_of(state)]) for state in block.states)
    return activation_scale(Range(lo=-largest, hi=largest))


def _quantize(model: ir.Model, state: ir.Value, scale: float) -> None:
    # A block's first norm goes on reading x₀ in float: OpenVINO 2026.4.1 loses the bias of a convolution whose
    # quantized output feeds both a norm and a Concat.
    uses = [use for use in state.uses() if use.node.op_type == "Concat"]
    first = min((use.node for use in uses), key=list(model.graph).index)
    dequantized = quantized_value(model, state, f"{name_of(state)}_state", scale, first)
    for use in uses:
        use.node.replace_input_with(use.idx, dequantized)
