"""Small models in ONNX's text form."""

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir


def model_from_text(
    body: str, constants: dict[str, np.ndarray], *, channels: int = 4, out: str = "[batch, 2, 4, 4]"
) -> ir.Model:
    text = f'<ir_version: 10, opset_import: ["" : 19]> g (float[batch, {channels}, 8, 8] input) => (float{out} logits) {{ {body} }}'
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    for index, node in enumerate(proto.graph.node):
        node.name = f"node{index}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def images(channels: int = 4, count: int = 3) -> np.ndarray:
    return random(count, channels, 8, 8, seed=9)


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]
