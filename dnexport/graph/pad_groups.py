"""Give the groups of a quantized 1×1 convolution a number of input channels that OpenVINO computes right.

OpenVINO 2026.4.1 computes a wrong result, without a message, for an int8 grouped 1×1 convolution with more than 64
input channels a group that are not a multiple of 64 (0 dB; 64, 128, 192 are right, and so are 3×3 convolutions). The
1×1 convolutions of the deeper CondenseNets are such. Zero weights for repeated channels up to the next multiple of 64
change nothing and avoid it. `tests/runtimes/test_openvino_defect.py` keeps the failing pattern.

In a CondenseNet the channels are gathered before the norm, so that the gather only grows; elsewhere one is added.
"""

import numpy as np
import onnx_ir as ir

from dnexport.graph.contract import PassResult
from dnexport.graph.values import add_initializer, constant_array, name_of, replace_constant, set_channels

_WHOLE = 64
_THROUGH = ("DequantizeLinear", "QuantizeLinear", "Sub", "Relu", "BatchNormalization", "Gather")


class PadGroups:
    """Pad the groups of quantized 1×1 convolutions to multiples of 64 input channels."""

    name = "pad_groups"

    def __call__(self, model: ir.Model) -> PassResult:
        padded = [node for node in model.graph if node.op_type == "Conv" and _pad(model, node)]
        return PassResult(model, bool(padded))


def _pad(model: ir.Model, conv: ir.Node) -> bool:
    groups = conv.attributes.get_int("group", 1)
    dequantize = conv.inputs[1].producer() if conv.inputs[1] is not None else None
    if groups == 1 or dequantize is None or dequantize.op_type != "DequantizeLinear":
        return False
    weight = constant_array(dequantize.inputs[0])
    if weight is None or weight.shape[2:] != (1, 1):
        return False
    channels = weight.shape[1]
    wanted = -(-channels // _WHOLE) * _WHOLE
    if channels <= _WHOLE or channels == wanted:
        return False
    # Each group keeps its channels and repeats its first one.
    index = np.concatenate([g * channels + np.r_[:channels, [0] * (wanted - channels)] for g in range(groups)])
    name = name_of(conv.outputs[0])
    zeros = np.zeros((len(weight), wanted - channels, 1, 1), weight.dtype)
    replace_constant(model, dequantize, 0, f"{name}_weight_padded", np.concatenate([weight, zeros], axis=1))
    set_channels(dequantize.outputs[0], 1, wanted)
    _gather(model, conv, index.astype(np.int64), name)
    return True


def _gather(model: ir.Model, conv: ir.Node, index: np.ndarray, name: str) -> None:
    """Let a convolution read the channels ``index`` of what it reads now."""
    chain = _chain(conv)
    if chain and chain[-1].op_type == "Gather":
        for node in chain:
            if node.op_type == "BatchNormalization":
                for i in range(1, 5):
                    old = constant_array(node.inputs[i])
                    assert old is not None
                    replace_constant(model, node, i, f"{name}_norm{i}_padded", old[index])
            set_channels(node.outputs[0], 1, len(index))
        gather = chain[-1]
        old = constant_array(gather.inputs[1])
        assert old is not None
        replace_constant(model, gather, 1, f"{name}_index_padded", old[index])
        return
    # Before the quantization, where there is one: between it and the convolution nothing may stand.
    reader = chain[-1] if chain else conv
    source = reader.inputs[0]
    indices = add_initializer(model, f"{name}_index_padded", index)
    gather = ir.node("Gather", [source, indices], {"axis": 1}, name=f"{name}_gather")
    gather.outputs[0].name = f"{name}_gathered"
    assert source is not None
    gather.outputs[0].type = ir.TensorType(source.dtype) if source.dtype is not None else None  # one of its own
    gather.outputs[0].shape = source.shape.copy() if source.shape else None
    set_channels(gather.outputs[0], 1, len(index))
    model.graph.insert_before(reader, gather)
    reader.replace_input_with(0, gather.outputs[0])
    for node in chain:
        set_channels(node.outputs[0], 1, len(index))


def _chain(conv: ir.Node) -> list[ir.Node]:
    """What a convolution alone reads through, last first: DQ, Q, then centre, ReLU, norm and gather where they are."""
    chain: list[ir.Node] = []
    node = conv
    while not chain or chain[-1].op_type != "Gather":
        value = node.inputs[0]
        producer = value.producer() if value is not None else None
        if value is None or producer is None or producer.op_type not in _THROUGH or len(value.uses()) != 1:
            break
        if producer.op_type == "Sub" and not _is_scalar(producer.inputs[1]):
            break
        if producer.op_type == "Gather" and (
            producer.attributes.get_int("axis", 0) != 1 or constant_array(producer.inputs[1]) is None
        ):
            break
        if producer.op_type == "BatchNormalization" and any(constant_array(v) is None for v in producer.inputs[1:5]):
            break
        chain.append(producer)
        node = producer
    quantized = [node for node in chain if node.op_type in ("DequantizeLinear", "QuantizeLinear")]
    if chain and chain[-1].op_type == "Gather":
        return chain
    return quantized if len(quantized) == 2 else []


def _is_scalar(value: ir.Value | None) -> bool:
    array = constant_array(value)
    return array is not None and array.size == 1
