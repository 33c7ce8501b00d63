from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.data.images import input_from_pixels
from dnexport.graph.centre_activations import CentreActivations
from dnexport.graph.contract import apply, model_from_path, save_model
from dnexport.graph.dense_blocks import dense_blocks
from dnexport.graph.equalize_state import EqualizeState
from dnexport.graph.passes_for import canonical_passes
from dnexport.graph.quantize_state import QuantizeState, state_scale
from dnexport.graph.unsigned_activations import UnsignedActivations
from dnexport.graph.values import constant_array
from dnexport.measure.accuracy import snr_db
from dnexport.spec.quantization import CalibrationTable, Range
from tests.graph.test_equalize_state import channels
from tests.graph.test_insert_qdq import table
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
    pooled = [node.inputs[0].name for node in model.graph if node.op_type == "AveragePool"]
    seen = channels(model, x, *pooled)
    ranges = {name: Range(lo=0, hi=seen[name].largest) for name in pooled}
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


def _states(body: str, constants: dict, x: np.ndarray, evaluate: Evaluate) -> list[np.ndarray]:
    """The float states: the graph without its concatenation, once for each."""
    found = []
    for state in ("a", "b"):
        kept = body.split("c = Concat")[0] + f"logits = Identity({state})"
        found.append(evaluate(model_from_text(kept, constants, out="[batch, 4, 4, 4]"), x))
    return found
