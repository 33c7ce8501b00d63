from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.calibrate.collect import ranges_from_batches
from dnexport.data.images import input_from_pixels
from dnexport.graph.centre_activations import CentreActivations
from dnexport.graph.contract import apply, model_from_path, save_model
from dnexport.graph.dense_blocks import dense_blocks
from dnexport.graph.equalize_state import EqualizeState
from dnexport.graph.insert_qdq import InsertQdq, quantization_points
from dnexport.graph.passes_for import canonical_passes
from dnexport.graph.quantize_state import QuantizeState, state_scale
from dnexport.graph.unsigned_activations import UnsignedActivations
from dnexport.graph.values import constant_array
from dnexport.measure.accuracy import snr_db
from dnexport.spec.quantization import CalibrationTable
from tests.graph.test_equalize_state import channels
from tests.graph.test_insert_qdq import table, table_of_all
from tests.graph.texts import images, model_from_text, random
from tests.networks import TINY_PREPROCESS, tiny_pixels

Evaluate = Callable[[ir.Model, np.ndarray], np.ndarray]


@pytest.fixture
def x() -> np.ndarray:
    return input_from_pixels(tiny_pixels(16), TINY_PREPROCESS)


@pytest.fixture
def pooled_graph(tiny_graph: Path, tmp_path: Path) -> Path:
    """Canonical: the transition pools before its convolution."""
    model = model_from_path(tiny_graph)
    apply(canonical_passes(), model)
    save_model(model, tmp_path / "canonical.onnx")
    return tmp_path / "canonical.onnx"


def known(graph: Path, x: np.ndarray) -> CalibrationTable:
    model = model_from_path(graph)
    pools = [node for node in model.graph if node.op_type == "AveragePool"]
    pooled = [value.name for pool in pools for value in (pool.inputs[0], pool.outputs[0])]
    seen = channels(model, x, *pooled)
    ranges = {name: seen[name].whole for name in pooled}
    return table(ranges).model_copy(update={"channels": seen})


def test_a_block_has_one_scale_and_concatenates_codes(tiny_graph: Path, x: np.ndarray) -> None:
    model, seen = model_from_path(tiny_graph), known(tiny_graph, x)
    scales = [state_scale(block, seen.channels) for block in dense_blocks(model)]
    apply((QuantizeState(seen),), model)
    for block, scale in zip(dense_blocks(model), scales, strict=True):
        dequantizers = [value.producer() for value in block.concats[-1].inputs]
        assert {node.op_type for node in dequantizers} == {"DequantizeLinear"}
        assert {float(constant_array(node.inputs[1])) for node in dequantizers} == {scale}
        readers = {use.node.op_type for node in dequantizers for use in node.outputs[0].uses()}
        assert readers == {"Concat", "BatchNormalization"}, "nothing reads a state in float"


def test_equalised_channels_lose_less(tiny_graph: Path, x: np.ndarray, evaluate: Evaluate) -> None:
    seen = known(tiny_graph, x)
    plain = evaluate(model_from_path(tiny_graph), x)
    found = []
    for first in ((), (EqualizeState(seen.channels, centre=False),), (EqualizeState(seen.channels),)):
        model = model_from_path(tiny_graph)
        apply(first, model)
        moved = seen.model_copy(update={"channels": first[0].channels if first else seen.channels})
        apply((QuantizeState(moved),), model)
        found.append(snr_db(plain, evaluate(model, x)))
    assert found[1] > found[0] + 0.5
    assert found[2] > found[1]


def test_blocks_can_stay_in_float_with_what_is_pooled_of_them(pooled_graph: Path, x: np.ndarray) -> None:
    model, seen = model_from_path(pooled_graph), known(pooled_graph, x)
    first, second = dense_blocks(model)
    (applied,) = apply((QuantizeState(seen, {first.name}),), model)
    assert applied.reasons == (f"{first.name}: stays in float",)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == len(second.states)
    (applied,) = apply((QuantizeState(table({})),), model_from_path(pooled_graph))
    assert "the calibration table does not know" in applied.reasons[0]


def quantized(graph: Path, seen: CalibrationTable, *, pooling: bool) -> ir.Model:
    model = model_from_path(graph)
    apply((QuantizeState(seen, pooling=pooling),), model)
    return model


def test_what_a_transition_pools_is_int8_unless_that_is_not_wanted(pooled_graph: Path, x: np.ndarray) -> None:
    seen = known(pooled_graph, x)
    for pooling in (True, False):
        model = quantized(pooled_graph, seen, pooling=pooling)
        (pool,) = (node for node in model.graph if node.op_type == "AveragePool")
        assert (pool.inputs[0].producer().op_type == "DequantizeLinear") == pooling
    without = seen.model_copy(update={"ranges": {}})
    (pool,) = (node for node in quantized(pooled_graph, without, pooling=True).graph if node.op_type == "AveragePool")
    assert pool.inputs[0].producer().op_type == "Relu", "a scale is not guessed"


def test_what_is_pooled_is_centred_and_put_back_behind_the_pooling(
    pooled_graph: Path, x: np.ndarray, evaluate: Evaluate
) -> None:
    """Twice the codes, less error; and unsigned codes are the same values with nothing to put back."""
    seen = known(pooled_graph, x)
    plain = evaluate(quantized(pooled_graph, seen, pooling=False), x)
    model = quantized(pooled_graph, seen, pooling=True)
    before = snr_db(plain, evaluate(model, x))
    (applied,) = apply((CentreActivations(seen),), model)
    assert applied.modified
    (pool,) = (node for node in model.graph if node.op_type == "AveragePool")
    assert [use.node.op_type for use in pool.outputs[0].uses()] == ["Add"]
    centred = evaluate(model, x)
    assert snr_db(plain, centred) > before + 2
    (applied,) = apply((UnsignedActivations(),), model)
    assert applied.modified
    assert [use.node.op_type for use in pool.outputs[0].uses()] == ["Conv"]
    np.testing.assert_allclose(evaluate(model, x), centred, atol=2e-5)


def test_a_stem_is_quantized_before_its_pooling_which_changes_nothing(evaluate: Evaluate) -> None:
    body = """
        z = Conv<kernel_shape=[1,1]>(input, w)
        r = Relu(z)
        a = MaxPool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1]>(r)
        b = Conv<kernel_shape=[2,2], strides=[2,2]>(input, v)
        c = Concat<axis=1>(a, b)
        logits = BatchNormalization(c, g, g, g, g)
    """
    constants = {"w": random(4, 4, 1, 1), "v": random(4, 4, 2, 2, seed=1), "g": np.ones(8, np.float32)}
    model = model_from_text(body, constants, out="[batch, 8, 4, 4]")
    x = images(count=4)
    seen = table({}).model_copy(update={"channels": channels(model, x)})
    scale = state_scale(dense_blocks(model)[0], seen.channels)
    apply((QuantizeState(seen),), model)
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    assert pool.inputs[0].producer().op_type == "DequantizeLinear"
    held = np.concatenate([np.asarray(each) for each in _states(body, constants, x, evaluate)], axis=1)
    rounded = (np.round(held / np.float32(scale)) * np.float32(scale) - 1) / np.sqrt(np.float32(1 + 1e-5)) + 1
    np.testing.assert_allclose(evaluate(model, x), rounded, atol=1e-5)


def test_a_stem_that_others_read_in_float_is_quantized_behind_its_pooling() -> None:
    body = """
        z = Conv<kernel_shape=[1,1]>(input, w)
        a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(z)
        b = Conv<kernel_shape=[1,1]>(a, v)
        c = Concat<axis=1>(a, b)
        logits = BatchNormalization(c, g, g, g, g)
    """
    constants = {"w": random(4, 4, 1, 1), "v": random(4, 4, 1, 1, seed=1), "g": np.ones(8, np.float32)}
    model = model_from_text(body, constants, out="[batch, 8, 4, 4]")
    apply((QuantizeState(table({}).model_copy(update={"channels": channels(model, images())})),), model)
    nodes = {node.op_type: node for node in model.graph}
    assert nodes["MaxPool"].inputs[0].producer().op_type == "Conv"
    assert [node.inputs[0].name for node in model.graph if node.op_type == "Conv"] == ["input", "a"]
    assert {value.producer().op_type for value in nodes["Concat"].inputs} == {"DequantizeLinear"}


TWO_READERS = """
    a = Conv<kernel_shape=[1,1]>(input, w)
    b = Conv<kernel_shape=[1,1]>(input, v)
    c = Concat<axis=1>(a, b)
    n = BatchNormalization(c, g, h, m, s)
    r = Relu(n)
    p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r)
    x = Conv<kernel_shape=[1,1]>(p, y)
"""
OTHERS = {
    "another pooling": "q = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r) z = Conv<kernel_shape=[1,1]>(q, k) logits = Add(x, z)",
    "a convolution": "z = Conv<kernel_shape=[2,2], strides=[2,2]>(r, u) logits = Add(x, z)",
}  # fmt: skip


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_pooled_may_have_other_readers(other: str, evaluate: Evaluate) -> None:
    """Two poolings share one quantization; a convolution has its own."""
    constants = {
        "w": random(4, 4, 1, 1), "v": random(4, 4, 1, 1, seed=1), "g": np.ones(8, np.float32), "h": random(8, seed=2), "m": random(8, seed=3),
        "s": np.ones(8, np.float32), "y": random(4, 8, 1, 1, seed=4), "u": random(4, 8, 2, 2, seed=5), "k": random(4, 8, 1, 1, seed=6),
    }  # fmt: skip
    model, x = model_from_text(TWO_READERS + OTHERS[other], constants, out="[batch, 4, n, k]"), images(count=8)
    reference = evaluate(model, x)
    seen = ranges_from_batches(ir.from_proto(ir.to_proto(model)), quantization_points(model), [x], lambda _: None)
    ranges = {name: observer.range(name) for name, observer in seen.ranges.items()}
    found = table(ranges).model_copy(update={"channels": channels(model, x)})
    apply((InsertQdq(found), QuantizeState(found), CentreActivations(found)), model)
    assert (
        sum(
            (node.name or "").startswith("r_pooled_quantize") and node.op_type == "QuantizeLinear"
            for node in model.graph
        )
        == 1
    )
    centred = evaluate(model, x)
    assert snr_db(reference.reshape(8, -1), centred.reshape(8, -1)) > 25
    apply((UnsignedActivations(),), model)
    np.testing.assert_allclose(evaluate(model, x), centred, atol=5e-5)


@pytest.mark.parametrize("pads", ["[1,1,1,1]", "[0,0,0,0]"])
def test_a_pooling_of_partial_windows_or_of_a_classifier_stays_in_float(pads: str) -> None:
    size = "[3,3], strides=[1,1]" if pads == "[1,1,1,1]" else "[8,8]"
    body = (
        TWO_READERS.replace("[2,2], strides=[2,2]>(r)", f"{size}, pads={pads}>(r)")
        + " o = Conv<kernel_shape=[1,1]>(r, y) e = ReduceMean(o, axes) t = ReduceMean(x, axes) logits = Add(e, t)"
    )
    constants = {
        "w": random(4, 4, 1, 1), "v": random(4, 4, 1, 1), "g": np.ones(8, np.float32), "h": random(8), "m": random(8), "s": np.ones(8, np.float32),
        "y": random(4, 8, 1, 1), "axes": np.array([2, 3]),
    }  # fmt: skip
    model = model_from_text(body, constants, out="[batch, 4, 1, 1]")
    apply((QuantizeState(table_of_all(model)),), model)
    (pool,) = (node for node in model.graph if node.op_type == "AveragePool")
    assert pool.inputs[0].producer().op_type == "Relu"


def _states(body: str, constants: dict, x: np.ndarray, evaluate: Evaluate) -> list[np.ndarray]:
    """The float states: the graph without its concatenation, once for each."""
    found = []
    for state in ("a", "b"):
        kept = body.split("c = Concat")[0] + f"logits = Identity({state})"
        found.append(evaluate(model_from_text(kept, constants, out="[batch, 4, 4, 4]"), x))
    return found
