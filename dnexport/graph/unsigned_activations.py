"""For runtimes that take zero points: undo centring, and hold the same codes as unsigned integers.

    round((x − c)/s) = round(x/s) − k,  c = k·s        the signed code of what `centre_activations` has centred
    u = round(x/s) + (128 − k)                         the unsigned code, with the zero point 128 − k

Equal codes, less work: nothing is subtracted, a convolution pads with what zero is, and nothing has to be put back.
Behind a ReLU k is 128, and the zero point 0. TensorRT takes no zero points; OpenVINO and ONNX Runtime do, and their CPU
kernels are made for unsigned activations.
"""

import numpy as np
import onnx_ir as ir

from dnexport.graph.centre_activations import SUBTRACTION, convolved_constants, readers_behind
from dnexport.graph.contract import PassResult
from dnexport.graph.values import add_initializer, add_to_bias, constant_array, name_of, remove_unused


class UnsignedActivations:
    """Turn centred int8 activations into uint8 ones with a zero point."""

    name = "unsigned_activations"

    def __call__(self, model: ir.Model) -> PassResult:
        reasons: list[str] = []
        modified = False
        for quantize in [node for node in model.graph if node.op_type == "QuantizeLinear"]:
            centred = _centre(quantize)
            if centred is None:
                continue
            subtract, centre = centred
            convs = readers_behind(quantize)
            constants = convolved_constants(convs, centre)
            if isinstance(constants, str):
                reasons.append(f"{quantize.name}: {constants}")
                continue
            for conv, constant in zip(convs, constants, strict=True):
                _take_back(model, conv, constant)
            _hold_unsigned(model, quantize, subtract, centre)
            modified = True
        if modified:
            remove_unused(model)
        return PassResult(model, modified, tuple(reasons))


def _centre(quantize: ir.Node) -> tuple[ir.Node, float] | None:
    """The subtraction before a quantization, and its constant, a multiple of the scale."""
    value = quantize.inputs[0]
    producer = value.producer() if value is not None else None
    zero, scale = constant_array(quantize.inputs[2]), constant_array(quantize.inputs[1])
    ours = producer is not None and (producer.name or "").endswith(SUBTRACTION)  # not one of the network's own
    if producer is None or not ours or zero is None or zero.dtype != np.int8 or scale is None:
        return None
    centre = constant_array(producer.inputs[1])
    return (producer, float(centre)) if centre is not None and centre.size == 1 else None


def _take_back(model: ir.Model, reader: ir.Node, constant: np.ndarray) -> None:
    """Remove what the centring of its input has added to a convolution or pooling."""
    output = reader.outputs[0]
    readers = list(output.uses())
    add = readers[0].node if len(readers) == 1 and readers[0].node.op_type == "Add" else None
    picture = constant_array(add.inputs[1]) if add is not None else None
    apart = reader.op_type != "Conv" or constant.shape[2:] != (1, 1)  # not in a bias
    if add is not None and picture is not None and picture.shape == constant.shape and apart:
        add.outputs[0].replace_all_uses_with(output, replace_graph_outputs=True)
        model.graph.remove(add, safe=True)
        return
    add_to_bias(model, reader, f"{name_of(output)}_unsigned_bias", -constant[0, :, 0, 0])


def _hold_unsigned(model: ir.Model, quantize: ir.Node, subtract: ir.Node, centre: float) -> None:
    scale = constant_array(quantize.inputs[1])
    assert scale is not None
    zero = 128 - round(centre / float(scale))
    point = add_initializer(model, f"{quantize.name}_unsigned_zero_point", np.asarray(zero, np.uint8))
    quantize.replace_input_with(0, subtract.inputs[0])
    for node in (quantize, *(use.node for use in quantize.outputs[0].uses())):
        node.replace_input_with(2, point)
    quantize.outputs[0].dtype = ir.DataType.UINT8
    if not subtract.outputs[0].uses():
        model.graph.remove(subtract, safe=True)
