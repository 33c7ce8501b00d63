"""Placement *state*: hold a dense block's concatenation in int8, with one scale a block.

    x̂_c = s·clip(round(x_c/s), −128, 127),   s = max over all channels c of the block |x_c| / 127

Each state is quantized once, where it is computed; equal scales let a runtime concatenate the codes as they are, a
quarter of the bytes, and every layer of the block reads codes. One scale for channels of different range costs
accuracy, which `equalize_state` gives back. Rounding commutes with the maximum of a pooling, so a stem's state is
quantized before it is pooled, which changes no value and pools a quarter of the bytes.

What the transition behind the block pools is quantized too, with a scale of its own: nothing of the block's size is
left in float then. The pooling's mean takes half of that error away.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx_ir as ir

from dnexport.graph.contract import PassResult
from dnexport.graph.dense_blocks import DenseBlock, dense_blocks
from dnexport.graph.insert_qdq import activation_scale, quantized_value
from dnexport.graph.pool_before_conv import averages_pictures
from dnexport.graph.values import name_of
from dnexport.spec.quantization import CalibrationTable, ChannelRanges, Range

_READERS = ("Concat", "BatchNormalization")


class QuantizeState:
    """Quantize the states of every dense block, and what is pooled of them.

    Args:
        table: ranges of this very graph.
        kept: names of blocks that stay in float.
        pooling: also what the transitions pool.
    """

    name = "quantize_state"

    def __init__(self, table: CalibrationTable, kept: Collection[str] = (), *, pooling: bool = True) -> None:
        self.table = table
        self.kept = kept
        self.pooling = pooling

    def __call__(self, model: ir.Model) -> PassResult:
        modified = False
        reasons: list[str] = []
        for block in dense_blocks(model):
            if block.name in self.kept:
                reasons.append(f"{block.name}: stays in float")
                continue
            if (unknown := next((s.name for s in block.states if s.name not in self.table.channels), None)) is not None:
                reasons.append(f"{block.name}: the calibration table does not know '{unknown}'")
                continue
            pools = list(self._pools_behind(model, block)) if self.pooling else []
            scale = state_scale(block, self.table.channels)
            for state in block.states:
                _hold(model, state, scale)
            self._hold_pooled(model, pools)
            modified = True
        return PassResult(model, modified, tuple(reasons))

    def _pools_behind(self, model: ir.Model, block: DenseBlock) -> Iterator[ir.Node]:
        """The poolings of transitions that read the block's concatenation through norm or ReLU.

        Their readers may be quantized already: a range for what they leave says that convolutions read it.
        """
        concatenated = {concat.outputs[0] for concat in block.concats}
        for pool in model.graph:
            value = pool.inputs[0] if averages_pictures(pool) else None
            known = value is not None and {value.name, pool.outputs[0].name} <= self.table.ranges.keys()
            if not known or value in concatenated:  # what is concatenated is held already
                continue
            while value is not None and value not in concatenated:
                producer = value.producer()
                through = producer is not None and producer.op_type in ("Relu", "BatchNormalization")
                value = producer.inputs[0] if producer is not None and through else None
            if value is not None:
                yield pool

    def _hold_pooled(self, model: ir.Model, pools: Sequence[ir.Node]) -> None:
        held: dict[str, ir.Value] = {}
        for pool in pools:  # in the order of the graph
            pooled = pool.inputs[0]
            assert pooled is not None
            name = name_of(pooled)
            if name not in held:
                scale = activation_scale(self.table.ranges[name])
                held[name] = quantized_value(model, pooled, f"{name}_pooled", scale, pool)
            pool.replace_input_with(0, held[name])


def state_scale(block: DenseBlock, channels: Mapping[str, ChannelRanges]) -> float:
    """The scale of all states of a block."""
    largest = max(channels[name_of(state)].largest for state in block.states)
    return activation_scale(Range(lo=-largest, hi=largest))


def _hold(model: ir.Model, state: ir.Value, scale: float) -> None:
    computed = _before_maximum(state)
    uses = [use for use in computed.uses() if computed is not state or use.node.op_type in _READERS]
    first = min((use.node for use in uses), key=list(model.graph).index)
    dequantized = quantized_value(model, computed, f"{name_of(state)}_state", scale, first)
    for use in uses:
        use.node.replace_input_with(use.idx, dequantized)


def _before_maximum(state: ir.Value) -> ir.Value:
    """What a max pooling makes the state of, where nothing reads either that would want it in float."""
    value = state
    while (pool := value.producer()) is not None and pool.op_type == "MaxPool":
        before, readers = pool.inputs[0], {use.node.op_type for use in value.uses()}
        if before is None or len(before.uses()) > 1 or not readers <= {*_READERS, "MaxPool"}:
            break
        value = before
    return value
