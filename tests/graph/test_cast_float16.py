from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.errors import GraphError
from dnexport.graph.cast_float16 import CastFloat16
from dnexport.graph.census import census_from_model
from dnexport.graph.contract import apply
from dnexport.graph.passes_for import passes_for
from dnexport.measure.accuracy import snr_db
from dnexport.spec.precision import Precision
from dnexport.spec.target import Target
from tests.graph.texts import images, model_from_text, operators, random


def convolution(weight: np.ndarray) -> ir.Model:
    body = "a = Conv<kernel_shape=[1,1]>(input, w) logits = Relu(a)"
    return model_from_text(body, {"w": weight}, out="[batch, 2, 8, 8]")


def test_the_body_is_half_and_the_ends_are_not(evaluate: Callable[..., np.ndarray]) -> None:
    model = convolution(random(2, 4, 1, 1))
    reference = evaluate(model, images())
    first, second = apply((CastFloat16(), CastFloat16()), model)
    assert (first.modified, second.modified) == (True, False)
    assert second.reasons == ("the graph already holds float16 constants",)
    assert operators(model) == ["Cast", "Conv", "Relu", "Cast"]
    assert model.graph.inputs[0].dtype == model.graph.outputs[0].dtype == ir.DataType.FLOAT
    assert census_from_model(model).conv_macs_by_precision == {"f16": 1.0}
    assert snr_db(reference.reshape(3, -1), evaluate(model, images()).reshape(3, -1)) > 50


def test_what_fp16_cannot_hold_is_refused() -> None:
    with pytest.raises(GraphError, match=r"constant 'w' holds 70000, above FP16's largest number 65504; build --fp32"):
        apply((CastFloat16(),), convolution(np.full((2, 4, 1, 1), 7e4, np.float32)))


def test_a_scale_that_underflows_is_refused() -> None:
    body = "q = QuantizeLinear(input, x_scale, z) d = DequantizeLinear(q, x_scale, z) logits = Conv<kernel_shape=[1,1]>(d, w)"
    constants = {"x_scale": np.array(1e-9, np.float32), "z": np.array(0, np.int8), "w": random(2, 4, 1, 1)}
    model = model_from_text(body, constants, out="[batch, 2, 8, 8]")
    with pytest.raises(GraphError, match="scale 'x_scale' underflows in FP16"):
        apply((CastFloat16(),), model)


@pytest.mark.parametrize(
    ("precision", "target", "names"),
    [
        ("fp32", "tensorrt", []),
        ("fp16", "tensorrt", ["unit_batchnorm", "cast_float16"]),
        ("int8", "tensorrt-rtx:sm86", ["unit_batchnorm", "cast_float16"]),
        ("fp16", "onnxruntime:cuda", ["unit_batchnorm", "cast_float16"]),
        ("fp16", "openvino:cpu", []),
        ("int8", "openvino:cpu", ["unsigned_activations", "nonzero_bias", "pad_groups"]),
        ("int8", "onnxruntime:cpu", ["unsigned_activations"]),
    ],
)
def test_the_list_of_lowerings(precision: str, target: str, names: list[str]) -> None:
    assert [p.name for p in passes_for(Precision(precision), Target.parse(target))] == names


def test_a_norm_may_scale_by_zero(evaluate: Callable[..., np.ndarray]) -> None:
    """As networks pruned by their norms have it; only scales of Q/DQ divide."""
    constants = {name: np.ones(4, np.float32) for name in ("norm_scale", "b", "m", "v")}
    constants["norm_scale"][1] = 0
    body = "y = BatchNormalization(input, norm_scale, b, m, v) logits = Flatten(y)"
    model = model_from_text(body, constants, out="[batch, n]")
    before = evaluate(model, images())
    apply((CastFloat16(),), model)
    np.testing.assert_allclose(evaluate(model, images()), before, atol=0.02)
