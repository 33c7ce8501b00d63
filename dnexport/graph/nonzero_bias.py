"""Give every convolution of a quantized graph a bias that is not zero, for OpenVINO.

OpenVINO 2026.4.1 computes a wrong result, without a message, for a quantized convolution without bias whose output
feeds both a per-channel affine (BatchNormalization) and a Concat: the stem of a DenseNet and, after `pool_before_conv`,
its transitions. A zero bias does not help; 1e-6 on each channel does, and is 100 dB below the signal. Convolutions that
stay in float get it too: it costs nothing, and they stand in the same places.
`tests/runtimes/test_openvino_defect.py` keeps the failing pattern.
"""

import numpy as np
import onnx_ir as ir

from dnexport.errors import GraphError
from dnexport.graph.contract import PassResult
from dnexport.graph.values import add_initializer, constant_array, name_of

_TINY = np.float32(1e-6)


class NonzeroBias:
    """Add or fill in a bias of 1e-6 where a convolution has none, or zeros."""

    name = "nonzero_bias"

    def __call__(self, model: ir.Model) -> PassResult:
        modified = False
        for conv in model.graph:
            if conv.op_type != "Conv":
                continue
            bias = constant_array(conv.inputs[2]) if len(conv.inputs) > 2 else None
            if bias is not None and bias.all():
                continue
            channels = _output_channels(conv)
            filled = np.full(channels, _TINY) if bias is None else np.where(bias == 0, _TINY, bias)
            value = add_initializer(model, f"{name_of(conv.outputs[0])}_bias", filled.astype(np.float32))
            conv.resize_inputs(3)
            conv.replace_input_with(2, value)
            modified = True
        return PassResult(model, modified)


def _output_channels(conv: ir.Node) -> int:
    channels = conv.inputs[1].shape[0] if conv.inputs[1] is not None and conv.inputs[1].shape is not None else None
    if not isinstance(channels, int):
        raise GraphError(f"the weight of {conv.name} has no known shape", "export the graph again with dnexport")
    return channels
