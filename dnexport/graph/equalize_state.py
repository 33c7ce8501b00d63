"""Give all channels of a dense block's concatenation the same range, so that one int8 scale fits them all.

Every reader of a block's states normalises them by a batch norm of its own, so a positive factor f_c a channel can
move from where the state is computed into the norms that read it, exactly:

    h_c' = f_c·h_c                       the convolution's row c and its bias, times f_c
    γ_c·(h_c − μ_c)/√(σ_c²+ε) + β_c   =   (γ_c/f_c)·(h_c' − f_c·μ_c)/√(σ_c²+ε) + β_c

f_c = m/m_c lifts each channel's largest magnitude m_c to the block's largest, m. ReLU and pooling between the
convolution and the block let positive factors through.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from dnexport.graph.contract import PassResult
from dnexport.graph.dense_blocks import DenseBlock, dense_blocks
from dnexport.graph.values import constant_array, name_of, replace_constant

_LARGEST_FACTOR = 256.0  # γ/f must stay a normal number in FP16
_TRANSPARENT = ("Relu", "MaxPool", "AveragePool")


class EqualizeState:
    """Equalise the channels of every dense block whose readers all normalise.

    Args:
        magnitudes: the largest |x| of each channel, by the name of the state.
    """

    name = "equalize_state"

    def __init__(self, magnitudes: Mapping[str, Sequence[float]]) -> None:
        self.magnitudes = magnitudes

    def __call__(self, model: ir.Model) -> PassResult:
        modified = False
        reasons: list[str] = []
        for block in dense_blocks(model):
            if (reason := self._obstacle(block)) is not None:
                reasons.append(f"{block.name}: {reason}")
                continue
            modified = self._equalize(model, block) or modified
        return PassResult(model, modified, tuple(reasons))

    def _obstacle(self, block: DenseBlock) -> str | None:
        for state in block.states:
            if state.name not in self.magnitudes:
                return f"the calibration table does not know '{state.name}'"
            if isinstance(conv := _computed_by(state), str):
                return conv
        readers = [(value, use.node) for value in (*block.states, *_outputs(block)) for use in value.uses()]
        for value, node in readers:
            if node in block.concats:
                continue
            if node.op_type != "BatchNormalization" or any(constant_array(v) is None for v in node.inputs[1:5]):
                return f"'{value.name}' is read by {node.op_type} '{node.name}', which is no norm of constants"
        return None

    def _equalize(self, model: ir.Model, block: DenseBlock) -> bool:
        largest = max(max(self.magnitudes[name_of(state)]) for state in block.states)
        factors: dict[ir.Value, np.ndarray] = {}
        for state in block.states:
            each = np.asarray(self.magnitudes[name_of(state)], np.float64)
            lifted = np.divide(largest, each, out=np.ones_like(each), where=each > 0)
            factors[state] = np.clip(lifted, 1.0, _LARGEST_FACTOR)
        if all((factor == 1).all() for factor in factors.values()):
            return False
        for state in block.states:
            _scale_rows(model, state, factors[state])
            _rescale_norms(model, state, factors[state])
        for concat in block.concats:
            whole = np.concatenate([factors[state] for state in block.channels(concat)])
            _rescale_norms(model, concat.outputs[0], whole)
        return True


def _outputs(block: DenseBlock) -> tuple[ir.Value, ...]:
    return tuple(concat.outputs[0] for concat in block.concats)


def _computed_by(state: ir.Value) -> ir.Node | str:
    """The convolution whose rows are the state's channels; or why there is none."""
    value = state
    while True:
        producer = value.producer()
        if producer is None:
            return f"'{state.name}' is no result of a convolution"
        if value is not state and len(value.uses()) > 1:
            return f"'{value.name}' on the way to '{state.name}' is read by others"
        if producer.op_type == "Conv":
            weight = constant_array(producer.inputs[1])
            return producer if weight is not None else f"the weight of {producer.name} is not a constant"
        if producer.op_type not in _TRANSPARENT or producer.inputs[0] is None:
            return f"'{state.name}' is a result of {producer.op_type}"
        value = producer.inputs[0]


def _scale_rows(model: ir.Model, state: ir.Value, factor: np.ndarray) -> None:
    conv = _computed_by(state)
    assert isinstance(conv, ir.Node)
    for index in range(1, len(conv.inputs)):
        array = constant_array(conv.inputs[index])
        if array is not None:
            scaled = array * factor.reshape(-1, *[1] * (array.ndim - 1))
            name = f"{name_of(conv.inputs[index])}_equalized"
            replace_constant(model, conv, index, name, scaled.astype(np.float32))


def _rescale_norms(model: ir.Model, value: ir.Value, factor: np.ndarray) -> None:
    for use in value.uses():
        if (norm := use.node).op_type != "BatchNormalization":
            continue
        scale, mean = (constant_array(norm.inputs[index]) for index in (1, 3))
        assert scale is not None
        assert mean is not None
        for index, array in ((1, scale / factor), (3, mean * factor)):
            name = f"{name_of(norm.inputs[index])}_of_{norm.name}_equalized"
            replace_constant(model, norm, index, name, array.astype(np.float32))
