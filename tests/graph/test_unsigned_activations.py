from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.graph.centre_activations import CentreActivations
from dnexport.graph.contract import apply
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.graph.unsigned_activations import UnsignedActivations
from dnexport.graph.values import constant_array
from dnexport.spec.quantization import Range
from tests.graph.test_centre_activations import network
from tests.graph.test_insert_qdq import table
from tests.graph.texts import images, model_from_text, operators, random

Evaluate = Callable[[ir.Model, np.ndarray], np.ndarray]


def centred(model: ir.Model, lo: float = 0, hi: float = 3) -> ir.Model:
    seen = table({"r": Range(lo=lo, hi=hi)})
    apply((InsertQdq(seen), CentreActivations(seen)), model)
    return model


@pytest.mark.parametrize(
    "shape",
    [{"kernel": 1}, {"kernel": 1, "bias": True}, {"kernel": 3}, {"kernel": 3, "bias": True, "groups": 2}],
    ids=str,
)
def test_the_codes_are_the_same_and_nothing_is_put_back(shape: dict[str, int], evaluate: Evaluate) -> None:
    model = centred(network(**shape))
    before = evaluate(model, images())
    (applied,) = apply((UnsignedActivations(),), model)
    assert applied.modified
    assert operators(model) == ["Relu", "QuantizeLinear", "DequantizeLinear", "DequantizeLinear", "Conv", "Flatten"]
    np.testing.assert_allclose(evaluate(model, images()), before, atol=2e-5)
    quantize = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    zero = constant_array(quantize.inputs[2])
    assert (zero.dtype, int(zero)) == (np.uint8, 0)
    used = {value.name for node in model.graph for value in node.inputs if value is not None}
    assert set(model.graph.initializers) <= used


def test_zero_keeps_its_place_in_other_ranges(evaluate: Evaluate) -> None:
    body = "r = Clip(input, low, high) c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, w) logits = Flatten(c)"
    constants = {"low": np.float32(-0.5), "high": np.float32(3), "w": random(6, 4, 3, 3)}
    model = centred(model_from_text(body, constants, out="[batch, n]"), lo=-0.5)
    before = evaluate(model, images())
    apply((UnsignedActivations(),), model)
    np.testing.assert_allclose(evaluate(model, images()), before, atol=2e-5)
    quantize = next(node for node in model.graph if node.op_type == "QuantizeLinear")
    assert int(constant_array(quantize.inputs[2])) == round(0.5 / 3.5 * 255)


def test_what_is_not_centred_stays() -> None:
    seen = table({"r": Range(lo=-3, hi=3)})
    model = network(3)
    apply((InsertQdq(seen),), model)
    (applied,) = apply((UnsignedActivations(),), model)
    assert not applied.modified
