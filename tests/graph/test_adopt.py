"""Foreign graphs: other exporters, old opsets, fixed batches, affines instead of norms."""

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from dnexport.errors import GraphError
from dnexport.graph.adopt import adopted, explicit_pads
from dnexport.graph.contract import apply, save_model
from dnexport.graph.dense_blocks import dense_blocks
from dnexport.graph.passes_for import canonical_passes
from dnexport.models.export import graph_logits, reference_logits
from dnexport.models.zoo import module_from_seed
from tests.graph.texts import images, model_from_text, random
from tests.networks import TINY


def legacy(module: nn.Module, path: Path, *, opset: int = 11, batch: int = 1, training: bool = False) -> Path:
    """As PyTorch's TorchScript exporter writes it, with norms where ``training`` keeps them."""
    mode = torch.onnx.TrainingMode.PRESERVE if training else torch.onnx.TrainingMode.EVAL
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, (torch.zeros(batch, 3, 16, 16),), path, opset_version=opset, dynamo=False, training=mode,
            input_names=["data_0"], output_names=["fc6"], do_constant_folding=not training,
        )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def module() -> nn.Module:
    return module_from_seed(TINY, (16, 16), 0)


@pytest.mark.parametrize(("opset", "training"), [(9, False), (11, False), (13, True), (17, False)])
def test_pytorchs_old_exporter_in_old_opsets(opset: int, training: bool, module: nn.Module, tmp_path: Path) -> None:
    found = adopted(legacy(module, tmp_path / "old.onnx", opset=opset, training=training))
    assert (found.channels, found.classes, found.input_size) == (3, 5, (16, 16))
    assert found.model.opset_imports[""] == 19
    save_model(found.model, tmp_path / "new.onnx")
    images = np.random.default_rng(0).standard_normal((3, 3, 16, 16)).astype(np.float32)
    np.testing.assert_allclose(graph_logits(tmp_path / "new.onnx", images), reference_logits(module, images), atol=1e-4)
    assert len(dense_blocks(found.model)) == 2


def test_the_canonical_graph_is_that_of_our_own_export(module: nn.Module, tiny_graph: Path, tmp_path: Path) -> None:
    model = adopted(legacy(module, tmp_path / "old.onnx")).model
    apply(canonical_passes(), model)
    counts = Counter(node.op_type for node in model.graph)
    assert (counts["Conv"], counts["BatchNormalization"], counts["Concat"]) == (10, 6, 4)


def test_an_affine_becomes_a_norm(tmp_path: Path) -> None:
    """Caffe's Scale layers, as the DenseNet of the ONNX model zoo has them, with logits [1, classes, 1, 1]."""
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.standard_normal((4, 3, 1, 1)), "g": rng.uniform(1, 2, 4), "b": rng.standard_normal(4),
        "m": rng.standard_normal(4), "v": rng.uniform(1, 2, 4), "a": rng.uniform(1, 2, (4, 1, 1)),
        "o": rng.standard_normal((4, 1, 1)), "a2": rng.uniform(1, 2, (1, 4, 1, 1)), "o2": rng.standard_normal((1, 4, 1, 1)),
    }  # fmt: skip
    body = """
        c = Conv(data_0, w)  n = BatchNormalization<epsilon=1e-5>(c, g, b, m, v)
        s = Mul(n, a)  t = Add(s, o)  r = Relu(t)  p = Mul(a2, r)  q = Add(p, o2)
        k = Conv(q, u)  fc6_1 = GlobalAveragePool(k)
    """
    arrays["u"] = rng.standard_normal((5, 4, 1, 1))
    proto = onnx.parser.parse_model(
        f'<ir_version: 3, opset_import: ["" : 9]> g (float[1,3,8,8] data_0) => (float[1,5,1,1] fc6_1) {{ {body} }}'
    )
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items())
    for name, array in arrays.items():  # IR 3 lists constants among the inputs
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, array.shape))
    onnx.save(proto, tmp_path / "zoo.onnx")
    found = adopted(tmp_path / "zoo.onnx")
    operators = [node.op_type for node in found.model.graph]
    assert operators == [
        "Conv",
        "BatchNormalization",
        "Relu",
        "BatchNormalization",
        "Conv",
        "GlobalAveragePool",
        "Flatten",
    ]
    save_model(found.model, tmp_path / "new.onnx")
    images = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "zoo.onnx", providers=["CPUExecutionProvider"])
    original = np.concatenate([session.run(None, {"data_0": image[None]})[0][:, :, 0, 0] for image in images])
    np.testing.assert_allclose(graph_logits(tmp_path / "new.onnx", images), original, atol=1e-5)


def graph(text: str, path: Path, opset: int = 13) -> Path:
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {text}'), path)
    return path


@pytest.mark.parametrize(
    ("text", "opset", "message"),
    [
        ("g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }", 8, "is of opset 8, and 9 to 21 are known"),
        ("g (uint8[1,8,8,3] x) => (uint8[1,8,8,3] y) { y = Identity(x) }", 13, r"is uint8 \[1, 8, 8, 3\], and float"),
        ("g (float[1,8,8,3] x) => (float[1,8,8,3] y) { y = Relu(x) }", 13, r"is float \[1, 8, 8, 3\], and float"),
        ("g (float[1,3,8,8] x) => (float[1,3,8,8] y) { y = Relu(x) }", 13, r"gives \['batch', '3', '8', '8'\] where"),
        ("g (float[1,3,8,8] x, float[1] z) => (float[1,3,8,8] y) { y = Mul(x, z) }", 13, "has 2 inputs"),
        (
            "g (float[1,3,8,8] x) => (uint8[1,3,8,8] y) <float s = {1}, uint8 z = {0}> { y = QuantizeLinear(x, s, z) }",
            13,
            "is quantized already; give the float graph that it was made from",
        ),
    ],
)
def test_what_is_no_classifier_is_refused(text: str, opset: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(GraphError, match=message):
        adopted(graph(text, tmp_path / "other.onnx", opset))


def test_a_size_that_is_not_the_graphs_is_refused(module: nn.Module, tmp_path: Path) -> None:
    path = legacy(module, tmp_path / "old.onnx")
    with pytest.raises(GraphError, match=r"takes 16×16 pixels; drop --input-size"):
        adopted(path, (32, 32))


def test_names_of_the_interface_may_be_taken(tmp_path: Path) -> None:
    text = "g (float[1,3,8,8] x) => (float[1,3] y) { input = Relu(x)  logits = GlobalAveragePool(input)  y = Flatten(logits) }"
    found = adopted(graph(text, tmp_path / "taken.onnx"))
    assert [value.name for value in (*found.model.graph.inputs, *found.model.graph.outputs)] == ["input", "logits"]
    assert isinstance(found.model, ir.Model)


@pytest.mark.parametrize("how", ["SAME_UPPER", "SAME_LOWER", "VALID", "NOTSET"])
@pytest.mark.parametrize(("kernel", "stride", "gap"), [(3, 1, 1), (3, 2, 1), (4, 3, 1), (2, 2, 1), (1, 2, 1)])
def test_automatic_padding_is_written_out(
    how: str, kernel: int, stride: int, gap: int, evaluate: Callable[[ir.Model, np.ndarray], np.ndarray]
) -> None:
    """As tf2onnx and PyTorch's ``padding='same'`` leave it; nothing after this looks for it."""
    attributes = f'auto_pad="{how}", kernel_shape=[{kernel},{kernel}], strides=[{stride},{stride}]'
    body = (
        f"c = Conv<{attributes}, dilations=[{gap},{gap}]>(input, w)"
        f'm = MaxPool<auto_pad="{how}", kernel_shape=[2,2], strides=[1,1]>(c)'
        f'logits = AveragePool<auto_pad="{how}", kernel_shape=[2,2], strides=[1,1]>(m)'
    )
    model = model_from_text(body, {"w": random(5, 4, kernel, kernel)}, out="[batch, n, h, v]")
    before = evaluate(model, images())
    explicit_pads(model, Path("model.onnx"))
    assert not any("auto_pad" in node.attributes for node in model.graph)
    np.testing.assert_array_equal(evaluate(model, images()), before)


def test_padding_by_a_size_that_nobody_knows_is_refused() -> None:
    model = model_from_text(
        'logits = Conv<auto_pad="SAME_UPPER", kernel_shape=[3,3]>(input, w)',
        {"w": random(5, 4, 3, 3)},
        out="[b, n, h, v]",
    )
    model.graph.inputs[0].shape = ir.Shape(["batch", 4, "height", "width"])
    with pytest.raises(GraphError, match=r"graph model\.onnx pads node0 by a size that is not known; export it with"):
        explicit_pads(model, Path("model.onnx"))


def test_automatic_padding_of_a_dilated_convolution() -> None:
    """ONNX Runtime does not take it; a kernel of 3 with gaps of 2 reaches over 5 pixels."""
    body = 'logits = Conv<auto_pad="SAME_UPPER", kernel_shape=[3,3], dilations=[2,2]>(input, w)'
    model = model_from_text(body, {"w": random(5, 4, 3, 3)}, out="[batch, 5, 8, 8]")
    explicit_pads(model, Path("model.onnx"))
    (conv,) = model.graph
    assert list(conv.attributes.get_ints("pads")) == [2, 2, 2, 2]
