from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from dnexport.errors import GraphError
from dnexport.graph.cast_float16 import CastFloat16
from dnexport.graph.census import census_from_model
from dnexport.graph.contract import apply
from dnexport.graph.dense_blocks import states
from dnexport.graph.insert_qdq import InsertQdq, float16_ceiling, quantization_points
from dnexport.graph.nonzero_bias import NonzeroBias
from dnexport.measure.accuracy import snr_db
from dnexport.spec.quantization import CalibrationSet, CalibrationTable, ChannelRanges, Range
from tests.graph.texts import images, model_from_text, operators, random


def two_convolutions() -> ir.Model:
    body = (
        "a = Conv<kernel_shape=[1,1]>(input, w) r = Relu(a) logits = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, v, b)"
    )
    constants = {"w": random(6, 4, 1, 1), "v": random(2, 6, 3, 3), "b": np.array([0, 0.5], np.float32)}
    return model_from_text(body, constants, out="[batch, 2, 8, 8]")


def table(ranges: dict[str, Range]) -> CalibrationTable:
    return CalibrationTable(
        calibration_set=CalibrationSet(),
        image_digests=(),
        graph_digest="",
        preprocess_digest="",
        synthetic=True,
        ranges=ranges,
    )


def table_of_all(model: ir.Model) -> CalibrationTable:
    """A table that knows of every point and state, each in the same range."""
    channels = dict.fromkeys(states(model), ChannelRanges(lo=(-6,), hi=(6,)))
    ranges = dict.fromkeys(quantization_points(model), Range(lo=-6, hi=6))
    return table(ranges).model_copy(update={"channels": channels})


RANGES = {"input": Range(lo=-4, hi=4), "r": Range(lo=0, hi=9)}


def test_points_are_what_convolutions_read_and_transitions_pool() -> None:
    assert quantization_points(two_convolutions()) == ("input", "r")
    body = "r = Relu(input) p = AveragePool<kernel_shape=[2,2]>(r) logits = Conv<kernel_shape=[1,1]>(p, w)"
    assert quantization_points(model_from_text(body, {"w": random(2, 4, 1, 1)})) == ("p", "r")
    padded = body.replace("=[2,2]>", "=[2,2], pads=[1,1,1,1]>")
    assert quantization_points(model_from_text(padded, {"w": random(2, 4, 1, 1)})) == ("p",)


def test_every_convolution_reads_int8(evaluate: Callable[..., np.ndarray]) -> None:
    model = two_convolutions()
    reference = evaluate(model, images())
    (applied,) = apply((InsertQdq(table(RANGES)),), model)
    assert applied.modified
    assert operators(model).count("QuantizeLinear") == 2
    assert operators(model).count("DequantizeLinear") == 4
    assert census_from_model(model).conv_macs_by_precision == {"int8": 1.0}
    answers = evaluate(model, images())
    assert 25 < snr_db(reference.reshape(3, -1), answers.reshape(3, -1)) < 60


def test_zero_points_are_zero_weights_are_int8_and_biases_float() -> None:
    model = two_convolutions()
    apply((InsertQdq(table(RANGES)),), model)
    constants = model.graph.initializers
    assert constants["w_quantized"].dtype == ir.DataType.INT8
    assert constants["w_scale"].shape == (6,)
    assert constants["input_scale"].shape == ()
    assert not constants["w_zero_point"].const_value.numpy().any()
    assert constants["b"].dtype == ir.DataType.FLOAT
    assert "w" not in constants


def test_weights_are_within_half_a_step() -> None:
    model = two_convolutions()
    weight = model.graph.initializers["v"].const_value.numpy().copy()
    apply((InsertQdq(table(RANGES)),), model)
    codes, scale = (model.graph.initializers[f"v_{name}"].const_value.numpy() for name in ("quantized", "scale"))
    error = np.abs(codes * scale[:, None, None, None] - weight)
    assert (error <= scale[:, None, None, None] * 0.5001).all()
    assert codes.min() >= -127


def test_a_fp16_body_keeps_every_code(evaluate: Callable[..., np.ndarray]) -> None:
    """Scales that FP16 holds exactly: casting the body changes no scale."""
    single, half = two_convolutions(), two_convolutions()
    apply((InsertQdq(table(RANGES)),), single)
    apply((InsertQdq(table(RANGES)), CastFloat16()), half)
    for name in ("w_scale", "v_scale", "input_scale", "r_scale"):
        wide, narrow = (m.graph.initializers[name].const_value.numpy() for m in (single, half))
        assert narrow.dtype == np.float16
        np.testing.assert_array_equal(wide, narrow.astype(np.float32))


@given(arrays(np.float32, 5, elements=st.floats(2.0**-20, 6e4, width=32)))
def test_float16_ceiling_is_the_next_number_up(values: np.ndarray) -> None:
    up = float16_ceiling(values)
    assert (up >= values).all()
    assert (up.astype(np.float16).astype(np.float32) == up).all()
    assert (np.nextafter(up.astype(np.float16), np.float16(0)).astype(np.float32) < values).all()


def test_an_all_zero_channel_has_scale_one(evaluate: Callable[..., np.ndarray]) -> None:
    model = two_convolutions()
    weight = model.graph.initializers["w"].const_value.numpy().copy()
    weight[2] = 0
    model.graph.initializers["w"].const_value = ir.tensor(weight, name="w")
    apply((InsertQdq(table(RANGES)),), model)
    assert model.graph.initializers["w_scale"].const_value.numpy()[2] == 1
    assert np.isfinite(evaluate(model, images())).all()


def test_a_table_without_the_tensor_is_refused() -> None:
    with pytest.raises(GraphError, match="has no range for 'r'; calibrate this very graph again"):
        apply((InsertQdq(table({"input": RANGES["input"]})),), two_convolutions())


def test_quantizing_twice_is_refused() -> None:
    model = two_convolutions()
    apply((InsertQdq(table(RANGES)),), model)
    with pytest.raises(GraphError, match="the graph is already quantized; give the float graph"):
        apply((InsertQdq(table(RANGES)),), model)


def test_computed_weights_are_declined() -> None:
    body = "s = Add(w, w) logits = Conv<kernel_shape=[1,1]>(input, s)"
    model = model_from_text(body, {"w": random(2, 4, 1, 1)}, out="[batch, 2, 8, 8]")
    (applied,) = apply((InsertQdq(table(RANGES)),), model)
    assert (applied.modified, applied.reasons) == (False, ("node1: its weight is not a constant",))


def test_biases_become_nonzero_only_where_they_are_zero() -> None:
    model = two_convolutions()
    _, applied, again = apply((InsertQdq(table(RANGES)), NonzeroBias(), NonzeroBias()), model)
    assert (applied.modified, again.modified) == (True, False)
    first, second = (node.inputs[2].const_value.numpy() for node in model.graph if node.op_type == "Conv")
    np.testing.assert_allclose(first, 1e-6)
    np.testing.assert_allclose(second, [1e-6, 0.5])
