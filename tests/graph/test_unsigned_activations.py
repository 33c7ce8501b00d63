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


def test_a_subtraction_of_the_networks_own_stays(evaluate: Evaluate) -> None:
    """As in 2·x − 1 before the first convolution: it is no centring, though it looks like it."""
    body = "y = Mul(input, two) r = Sub(y, one) c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, w) logits = Flatten(c)"
    constants = {"two": np.float32(2), "one": np.float32(1), "w": random(6, 4, 3, 3)}
    model = model_from_text(body, constants, out="[batch, n]")
    seen = table({"r": Range(lo=-8, hi=8)})
    apply((InsertQdq(seen), CentreActivations(seen)), model)
    before = evaluate(model, images())
    (applied,) = apply((UnsignedActivations(),), model)
    assert not applied.modified
    np.testing.assert_array_equal(evaluate(model, images()), before)


@pytest.mark.parametrize(("lo", "hi"), [(0.3, 2.0), (-2.0, -0.3), (1.9, 2.0)])
def test_a_range_without_zero_has_a_code_for_it_all_the_same(lo: float, hi: float, evaluate: Evaluate) -> None:
    """What a sigmoid leaves, for instance; padding reads zeros."""
    body = "r = Clip(input, low, high) c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, w) logits = Flatten(c)"
    constants = {"low": np.float32(lo), "high": np.float32(hi), "w": random(6, 4, 3, 3)}
    exact = evaluate(model_from_text(body, constants, out="[batch, n]"), images())
    model = centred(model_from_text(body, constants, out="[batch, n]"), lo, hi)
    before = evaluate(model, images())
    apply((UnsignedActivations(),), model)
    after = evaluate(model, images())
    np.testing.assert_allclose(after, before, atol=5e-5)
    assert np.abs(after - exact).max() < 0.03 * np.abs(exact).max()
