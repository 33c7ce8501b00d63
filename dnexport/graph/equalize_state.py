"""Give all channels of a dense block's concatenation the same range around 0, so that one int8 scale fits them all.

Every reader of a block's states normalises them by a batch norm of its own, so a shift t_c and a positive factor f_c a
channel can move from where the state is computed into the norms that read it, exactly:

    h_c' = f_c·(h_c − t_c)               the convolution's row c times f_c, its bias minus t_c and times f_c
    γ_c·(h_c − μ_c)/√(σ_c²+ε) + β_c   =   (γ_c/f_c)·(h_c' − f_c·(μ_c − t_c))/√(σ_c²+ε) + β_c

t_c is the middle of the channel's range, and f_c = m/m_c lifts its half width m_c to the largest of the block, m.
Pooling between the convolution and the block lets both through, ReLU only positive factors: such a state keeps its
place, and m_c is its largest magnitude.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from dnexport.graph.contract import PassResult
from dnexport.graph.dense_blocks import DenseBlock, dense_blocks
from dnexport.graph.pool_before_conv import partial_windows
from dnexport.graph.values import add_to_bias, constant_array, name_of, replace_constant
from dnexport.spec.quantization import ChannelRanges

_LARGEST_FACTOR = 256.0  # γ/f must stay a normal number in FP16
_TRANSPARENT = ("Relu", "MaxPool", "AveragePool")


@dataclass(frozen=True)
class _Move:
    """How the channels of a state are moved: h' = factor·(h − shift), float64 [channels] both."""

    shift: np.ndarray
    factor: np.ndarray


class EqualizeState:
    """Equalise the channels of every dense block whose readers all normalise.

    Args:
        channels: ranges by the name of the state.
        centre: shift them too.

    Attributes:
        channels: after the pass has run, of the graph as it is then.
    """

    name = "equalize_state"

    def __init__(self, channels: Mapping[str, ChannelRanges], *, centre: bool = True) -> None:
        self.channels = dict(channels)
        self.centre = centre

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
            if state.name not in self.channels:
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
        shifts = {state: self._shift(state) for state in block.states}
        halves = {state: self._half_width(state, shift) for state, shift in shifts.items()}
        largest = max(float(half.max()) for half in halves.values())
        moves = {state: _Move(shifts[state], lifting_factors(half, largest)) for state, half in halves.items()}
        if all((move.factor == 1).all() and not move.shift.any() for move in moves.values()):
            return False
        for state, move in moves.items():
            _move_rows(model, state, move)
            _move_norms(model, state, move)
            self.channels[name_of(state)] = moved_ranges(self.channels[name_of(state)], move.shift, move.factor)
        for concat in block.concats:
            held = [moves[state] for state in block.channels(concat)]
            shift, factor = (np.concatenate(parts) for parts in zip(*((m.shift, m.factor) for m in held), strict=True))
            _move_norms(model, concat.outputs[0], _Move(shift, factor))
        return True

    def _shift(self, state: ir.Value) -> np.ndarray:
        lo, hi = _ends(self.channels[name_of(state)])
        movable = self.centre and _shifts_pass(state)
        middle: np.ndarray = (lo + hi) / 2 if movable else np.zeros_like(lo)
        return middle

    def _half_width(self, state: ir.Value, shift: np.ndarray) -> np.ndarray:
        lo, hi = _ends(self.channels[name_of(state)])
        half: np.ndarray = np.maximum(hi - shift, shift - lo)
        return half


def _ends(seen: ChannelRanges) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(seen.lo, np.float64), np.asarray(seen.hi, np.float64)


def lifting_factors(half: np.ndarray, largest: float) -> np.ndarray:
    """What lifts each channel to the largest, float64 [channels], from 1 to 256; 1 where a channel is always 0."""
    lifted: np.ndarray = np.divide(largest, half, out=np.ones_like(half), where=half > 0).clip(1.0, _LARGEST_FACTOR)
    return lifted


def moved_ranges(seen: ChannelRanges, shift: np.ndarray | float, factor: np.ndarray) -> ChannelRanges:
    """The ranges of factor·(h − shift), both by channel."""
    lo, hi = (factor * (end - shift) for end in _ends(seen))
    return ChannelRanges(lo=tuple(map(float, lo)), hi=tuple(map(float, hi)))


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
            constant = all(constant_array(value) is not None for value in producer.inputs[1:] if value is not None)
            return producer if constant else f"the weight or bias of {producer.name} is not a constant"
        if producer.op_type not in _TRANSPARENT or producer.inputs[0] is None:
            return f"'{state.name}' is a result of {producer.op_type}"
        value = producer.inputs[0]


def _shifts_pass(state: ir.Value) -> bool:
    """Whether what is added to the convolution's output comes out of what lies between it and the state."""
    node = state.producer()
    while node is not None and node.op_type != "Conv":
        if node.op_type == "Relu" or (node.op_type == "AveragePool" and partial_windows(node) is not None):
            return False
        node = node.inputs[0].producer() if node.inputs[0] is not None else None
    return True


def _move_rows(model: ir.Model, state: ir.Value, move: _Move) -> None:
    conv = _computed_by(state)
    assert isinstance(conv, ir.Node)
    if move.shift.any():
        add_to_bias(model, conv, f"{name_of(state)}_centred_state_bias", (-move.shift).astype(np.float32))
    for index in range(1, len(conv.inputs)):
        array = constant_array(conv.inputs[index])
        if array is not None:
            scaled = array * move.factor.reshape(-1, *[1] * (array.ndim - 1))
            name = f"{name_of(conv.inputs[index])}_of_{conv.name}_equalized"
            replace_constant(model, conv, index, name, scaled.astype(np.float32))


def _move_norms(model: ir.Model, value: ir.Value, move: _Move) -> None:
    for use in value.uses():
        if (norm := use.node).op_type != "BatchNormalization":
            continue
        scale, mean = (constant_array(norm.inputs[index]) for index in (1, 3))
        assert scale is not None
        assert mean is not None
        for index, array in ((1, scale / move.factor), (3, (mean - move.shift) * move.factor)):
            name = f"{name_of(norm.inputs[index])}_of_{norm.name}_{index}_equalized"
            replace_constant(model, norm, index, name, array.astype(np.float32))
