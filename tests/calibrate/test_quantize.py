"""What of a graph is quantized, and what is refused."""

import numpy as np
import pytest

from dnexport.calibrate.quantize import kept_by_policy, quantize
from dnexport.errors import GraphError
from dnexport.graph.dense_blocks import states
from dnexport.graph.insert_qdq import quantization_points
from dnexport.spec.quantization import Quantization, Range
from tests.graph.test_insert_qdq import table
from tests.graph.texts import model_from_text, operators, random


def test_a_classifier_that_is_a_convolution_stays_in_float() -> None:
    """As DPN's and Caffe's: its errors are those of the logits."""
    body = "p = AveragePool<kernel_shape=[8,8]>(input) c = Conv<kernel_shape=[1,1]>(p, w) logits = Flatten(c)"
    model = model_from_text(body, {"w": random(6, 4, 1, 1)}, out="[batch, 6]")
    for transitions in ("float", "int8"):
        assert kept_by_policy(model, Quantization(transitions=transitions)) == {"c": "the classifier stays in float"}


def test_transitions_are_int8_where_the_state_is_unless_the_recipe_says_otherwise() -> None:
    assert not Quantization().int8_transitions
    assert Quantization(placement="state").int8_transitions
    assert Quantization(transitions="int8").int8_transitions
    assert not Quantization(placement="state", transitions="float").int8_transitions
    with pytest.raises(ValueError, match="which placement is faster is not measured yet"):
        _ = Quantization(placement="auto", min_snr=5).int8_transitions


def test_a_state_that_is_nowhere_is_refused_whatever_else_stays_in_float() -> None:
    body = """
        a = Conv<kernel_shape=[1,1]>(input, v)
        p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(a)
        c = Conv<kernel_shape=[1,1]>(p, w)
        logits = Flatten(c)
    """
    model = model_from_text(body, {"v": random(4, 4, 1, 1), "w": random(6, 4, 1, 1)}, out="[batch, n]")
    ranges = table(dict.fromkeys(quantization_points(model), Range(lo=-4, hi=4)))
    options = Quantization(placement="state", correct_bias=False)
    with pytest.raises(GraphError, match="no dense block of the graph can be held in int8"):
        quantize(model, ranges, options, {}, kept_by_policy(model, options))


def test_convolutions_of_other_than_pictures_stay_in_float() -> None:
    """Channel attention convolves along the channels: rank 3, which no quantizer here knows."""
    body = """
        a = Conv<kernel_shape=[1,1]>(input, v)
        m = ReduceMean<keepdims=0>(a, pixels)
        s = Unsqueeze(m, one)
        k = Conv<kernel_shape=[3], pads=[1,1]>(s, w)
        t = Concat<axis=1>(k, s)
        logits = Flatten(t)
    """
    constants = {"v": random(4, 4, 1, 1), "w": random(1, 1, 3), "pixels": np.array([2, 3]), "one": np.array([1])}
    model = model_from_text(body, constants, out="[batch, n]")
    assert quantization_points(model) == ("input",)
    pooled = model_from_text(
        body.replace("s = Unsqueeze(m, one)", "z = Unsqueeze(m, one) s = AveragePool<kernel_shape=[2], pads=[0,1]>(z)"),
        constants,
        out="[batch, n]",
    )
    assert quantization_points(pooled) == ("input",)
    assert states(model) == ()
    found = quantize(model, table({"input": Range(lo=-4, hi=4)}), Quantization(correct_bias=False, centre="none"), {})
    assert operators(model).count("QuantizeLinear") == 1
    assert any("does not convolve pictures" in reason for each in found for reason in each.reasons)
