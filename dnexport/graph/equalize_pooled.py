"""Give all channels that a transition pools the same range, so that one int8 scale fits them all.

A positive factor f_c a channel passes through ReLU and average pooling, so it can move from the transition's norm into
its convolution, exactly:

    W · AvgPool(ReLU(γ·x̂ + β))   =   (W_c / f_c) · AvgPool(ReLU(f_c·γ_c·x̂_c + f_c·β_c))

f_c = m/m_c lifts each channel's largest value m_c to the largest of all, m. What a pooling reads is rounded before the
convolution weighs the channels, so small ones lose most without it. Their ranges are then all that was seen, whatever
the observer: what it would clip of one channel is another one's middle.
"""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from dnexport.graph.contract import PassResult
from dnexport.graph.equalize_state import lifting_factors, moved_ranges
from dnexport.graph.pool_before_conv import transition_pools
from dnexport.graph.values import constant_array, name_of, replace_constant
from dnexport.spec.quantization import ChannelRanges


class EqualizePooled:
    """Equalise what transitions pool: BatchNormalization → Relu → AveragePool → Conv.

    Args:
        channels: ranges by the names of what is pooled and of the pooling's result.

    Attributes:
        moved: after the pass has run, the ranges of the tensors that it has changed.
    """

    name = "equalize_pooled"

    def __init__(self, channels: Mapping[str, ChannelRanges]) -> None:
        self.channels = channels
        self.moved: dict[str, ChannelRanges] = {}

    def __call__(self, model: ir.Model) -> PassResult:
        modified = False
        reasons: list[str] = []
        for pool in transition_pools(model):
            if isinstance(norm := self._norm_before(pool), str):
                reasons.append(f"{pool.name}: {norm}")
                continue
            modified = self._equalize(model, norm, pool) or modified
        return PassResult(model, modified, tuple(reasons))

    def _norm_before(self, pool: ir.Node) -> ir.Node | str:
        """The norm whose channels are pooled; or why they cannot be scaled."""
        for value in (pool.inputs[0], pool.outputs[0]):
            if name_of(value) not in self.channels:
                return f"the calibration table does not know '{name_of(value)}'"
        for conv in (use.node for use in pool.outputs[0].uses()):
            if constant_array(conv.inputs[1]) is None or conv.attributes.get_int("group", 1) != 1:
                return f"{conv.name} has no constant weight for each channel"
        node: ir.Node | None = pool
        for expected in ("Relu", "BatchNormalization"):
            value = node.inputs[0] if node is not None else None
            node = value.producer() if value is not None and len(value.uses()) == 1 else None
            if node is None or node.op_type != expected:
                return "what it pools is no norm behind a ReLU, or others read it"
        assert node is not None
        return node if all(constant_array(v) is not None for v in node.inputs[1:3]) else f"{node.name} is not constant"

    def _equalize(self, model: ir.Model, norm: ir.Node, pool: ir.Node) -> bool:
        pooled = pool.inputs[0]
        seen = self.channels[name_of(pooled)]
        factor = lifting_factors(np.asarray(seen.hi, np.float64), seen.largest)
        if (factor == 1).all():
            return False
        columns = [(use.node, 1, 1 / factor[None, :, None, None]) for use in pool.outputs[0].uses()]
        for node, index, by in [(norm, 1, factor), (norm, 2, factor), *columns]:
            array = constant_array(node.inputs[index])
            assert array is not None
            name = f"{name_of(node.inputs[index])}_of_{node.name}_{index}_pooled"
            replace_constant(model, node, index, name, (array * by).astype(np.float32))
        for value in (pooled, pool.outputs[0]):
            self.moved[name_of(value)] = moved_ranges(self.channels[name_of(value)], 0.0, factor)
        return True
