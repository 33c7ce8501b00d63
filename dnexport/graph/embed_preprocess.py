"""Take pixels instead of normalised images: a quarter of the upload, and no arithmetic before the engine.

    input, uint8 [batch, height, width, channels] -> Cast -> Sub(255·mean) -> Transpose -> x·255·std

What is left of the normalisation, a factor 1/(255·std) a channel, goes into the first convolution's weights, or, where
the input is quantized on the grid of its pixels (`pixel_input`), into the factor there:

    W∗x  =  (W/(255·std))∗(p − 255·mean)

Zero stays zero, so padding means what it meant.
"""

import numpy as np
import onnx_ir as ir

from dnexport.errors import GraphError
from dnexport.graph.contract import INPUT, PassResult
from dnexport.graph.values import add_initializer, constant_array, name_of, replace_constant
from dnexport.spec.preprocess import Preprocess

_PLANES = "input_planes"


class EmbedPreprocess:
    """Give the graph a uint8 input.

    Args:
        preprocess: the normalisation that goes into the graph.
    """

    name = "embed_preprocess"

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess

    def __call__(self, model: ir.Model) -> PassResult:
        (old,) = model.graph.inputs
        shaped = [use.node for use in old.uses() if use.node.op_type == "Shape"]
        readers = [use.node for use in old.uses() if use.node.op_type != "Shape"]
        if len(readers) != 1:
            raise GraphError("the input is read by several nodes, so that no factor can move into one", "drop --input")
        self._scale(model, readers[0])
        pixels = _pixels(old, self.preprocess)
        planes = self._planes(model, pixels, old)
        readers[0].replace_input_with(0, planes)
        for node in shaped:  # asks for the batch, which stands first in both
            node.replace_input_with(0, planes)
        model.graph.inputs[0] = pixels
        return PassResult(model, True, interface=True)

    def _planes(self, model: ir.Model, pixels: ir.Value, old: ir.Value) -> ir.Value:
        """``p − 255·mean``, channels first."""
        mean = np.asarray([255 * each for each in self.preprocess.mean], np.float32)
        cast = ir.node("Cast", [pixels], attributes={"to": ir.DataType.FLOAT.value}, name=f"{INPUT}_to_float32")
        centre = ir.node("Sub", [cast.outputs[0], add_initializer(model, f"{INPUT}_mean", mean)], name=f"{INPUT}_sub")
        turn = ir.node("Transpose", [centre.outputs[0]], attributes={"perm": [0, 3, 1, 2]}, name=f"{INPUT}_transpose")
        for node, name in ((cast, f"{INPUT}_float32"), (centre, f"{INPUT}_centred")):
            node.outputs[0].name, node.outputs[0].shape = name, pixels.shape
            node.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
        planes = turn.outputs[0]
        planes.name, planes.shape, planes.type = _PLANES, old.shape, ir.TensorType(ir.DataType.FLOAT)
        model.graph.insert_before(next(iter(model.graph)), [cast, centre, turn])
        return planes

    def _scale(self, model: ir.Model, reader: ir.Node) -> None:
        """Move 1/(255·std) into the convolution or the factor that reads the input."""
        inverse = 1 / (255 * np.asarray(self.preprocess.std, np.float64))
        if reader.op_type == "Pad":
            (use,) = reader.outputs[0].uses()
            reader = use.node
        constant = constant_array(reader.inputs[1]) if reader.op_type in ("Conv", "Mul") else None
        if constant is None or constant.shape[1] != len(inverse):
            raise GraphError(
                f"node {reader.name} ({reader.op_type}) reads the input, and a factor cannot move into it",
                "drop --input uint8",
            )
        name = f"{name_of(reader.inputs[1])}_of_bytes"
        replace_constant(model, reader, 1, name, (constant * inverse[:, None, None]).astype(np.float32))


def _pixels(old: ir.Value, preprocess: Preprocess) -> ir.Value:
    batch = old.shape[0] if old.shape is not None else None
    shape = ir.Shape([batch, *preprocess.input_size, preprocess.planes])
    name, old.name = name_of(old), f"{name_of(old)}_normalised"
    return ir.Value(name=name, shape=shape, type=ir.TensorType(ir.DataType.UINT8))
