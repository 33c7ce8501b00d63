from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnexport.graph.centre_activations import CentreActivations, centring
from dnexport.graph.contract import apply
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.graph.values import constant_array
from dnexport.spec.quantization import Range
from tests.graph.test_insert_qdq import table
from tests.graph.texts import images, model_from_text, operators, random

Evaluate = Callable[[ir.Model, np.ndarray], np.ndarray]
SEEN = table({"r": Range(lo=0, hi=3)})


def network(kernel: int, *, stride: int = 1, pad: int | None = None, groups: int = 1, bias: bool = False) -> ir.Model:
    pad = kernel // 2 if pad is None else pad
    body = f"""
        r = Relu(input)
        c = Conv<kernel_shape=[{kernel},{kernel}], pads=[{pad},{pad},{pad},{pad}], strides=[{stride},{stride}], group={groups}>(r, w{", b" if bias else ""})
        logits = Flatten(c)
    """
    constants = {"w": random(6, 4 // groups, kernel, kernel)} | ({"b": random(6, seed=4)} if bias else {})
    return model_from_text(body, constants, out="[batch, n]")


@given(st.floats(-10, 10), st.floats(1e-3, 20))
def test_codes_cover_the_range_and_zero_stays_a_code(lo: float, span: float) -> None:
    seen = Range(lo=lo, hi=lo + span)
    centre, scale = centring(seen)
    ends = (np.array([seen.lo, seen.hi]) - centre) / scale
    assert ends.min() >= -128.5
    assert ends.max() <= 127.5
    assert centre / scale == pytest.approx(round(centre / scale), abs=1e-6)
    assert scale <= max(abs(seen.lo), abs(seen.hi)) / 127 * 1.001


def test_behind_a_relu_the_scale_is_half() -> None:
    centre, scale = centring(Range(lo=0, hi=3))
    assert scale == pytest.approx(3 / 255, rel=1e-3)
    assert centre == pytest.approx(128 * scale)
    assert centring(Range(lo=-2, hi=2))[0] == 0
    assert centring(Range(lo=1e-300, hi=1e-300)) == (0, 2.0**-24)


@pytest.mark.parametrize(
    "shape",
    [
        {"kernel": 1},
        {"kernel": 1, "bias": True},
        {"kernel": 3, "pad": 0},
        {"kernel": 3},
        {"kernel": 3, "bias": True, "groups": 2},
        {"kernel": 3, "stride": 2},
        {"kernel": 5, "stride": 2},
    ],
    ids=str,
)
def test_the_constant_is_put_back_exactly_to_the_border(shape: dict[str, int], evaluate: Evaluate) -> None:
    """Against the arithmetic itself: the float convolution of dequantized weights and of (code + 128) · scale."""
    model = network(**shape)
    apply((InsertQdq(SEEN), CentreActivations(SEEN)), model)
    x = np.clip(images(4), None, 3)
    centre, scale = centring(SEEN.ranges["r"])
    held = np.round(np.maximum(x, 0) / scale - 128) * scale + centre
    plain = network(**shape)
    weight = next(n for n in model.graph if n.op_type == "Conv").inputs[1].producer()
    codes, scales = (constant_array(value) for value in weight.inputs[:2])
    plain.graph.initializers["w"].const_value = ir.tensor(
        (codes * scales[:, None, None, None]).astype(np.float32), name="w"
    )
    np.testing.assert_allclose(evaluate(model, x), evaluate(plain, held.astype(np.float32)), atol=2e-5)
    padded = shape["kernel"] > 1 and shape.get("pad") != 0
    assert ("Add" in operators(model)) == padded


def test_only_pointwise_where_that_is_asked_for() -> None:
    for kernel, changed in ((1, True), (3, False)):
        model = network(kernel)
        applied = apply((InsertQdq(SEEN), CentreActivations(SEEN, padded=False)), model)
        assert applied[1].modified is changed


def test_nothing_is_left_behind() -> None:
    model = network(1, bias=True)
    apply((InsertQdq(SEEN), CentreActivations(SEEN)), model)
    used = {value.name for node in model.graph for value in node.inputs if value is not None}
    assert set(model.graph.initializers) <= used


def test_a_tensor_that_not_only_convolutions_read_is_declined() -> None:
    model = network(1)
    apply((InsertQdq(SEEN),), model)
    dequantized = next(n for n in model.graph if n.name == "r_dequantize").outputs[0]
    other = ir.node("Neg", [dequantized], name="other")
    other.outputs[0].name = "negative"
    model.graph.append(other)
    (applied,) = apply((CentreActivations(SEEN),), model)
    assert not applied.modified
    assert applied.reasons == ("r: other is not a convolution of int8 weights",)
