from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.data.images import input_from_pixels
from dnexport.graph.contract import apply, model_from_path
from dnexport.graph.dense_blocks import dense_blocks
from dnexport.graph.equalize_state import EqualizeState
from dnexport.graph.quantize_state import QuantizeState, state_scale
from dnexport.graph.values import constant_array
from dnexport.measure.accuracy import snr_db
from tests.graph.test_equalize_state import magnitudes
from tests.networks import TINY_PREPROCESS, tiny_pixels

Evaluate = Callable[[ir.Model, np.ndarray], np.ndarray]


@pytest.fixture
def x() -> np.ndarray:
    return input_from_pixels(tiny_pixels(16), TINY_PREPROCESS)


def test_a_block_has_one_scale_and_concatenates_codes(tiny_graph: Path, x: np.ndarray) -> None:
    model = model_from_path(tiny_graph)
    seen = magnitudes(model_from_path(tiny_graph), x)
    scales = [state_scale(block, seen) for block in dense_blocks(model)]
    apply((QuantizeState(seen),), model)
    for block, scale in zip(dense_blocks(model), scales, strict=True):
        dequantizers = [value.producer() for value in block.concats[-1].inputs]
        assert {node.op_type for node in dequantizers} == {"DequantizeLinear"}
        assert {float(constant_array(node.inputs[1])) for node in dequantizers} == {scale}
        assert {use.node.op_type for node in dequantizers for use in node.outputs[0].uses()} == {"Concat"}


def test_equalised_channels_lose_less(tiny_graph: Path, x: np.ndarray, evaluate: Evaluate) -> None:
    seen = magnitudes(model_from_path(tiny_graph), x)
    plain = evaluate(model_from_path(tiny_graph), x)
    found = []
    for first in ((), (EqualizeState(seen),)):
        model = model_from_path(tiny_graph)
        apply((*first, QuantizeState(seen)), model)
        found.append(snr_db(plain, evaluate(model, x)))
    assert found[1] > found[0] + 0.5


def test_blocks_can_stay_in_float(tiny_graph: Path, x: np.ndarray) -> None:
    model = model_from_path(tiny_graph)
    seen = magnitudes(model_from_path(tiny_graph), x)
    first, second = dense_blocks(model)
    (applied,) = apply((QuantizeState(seen, {first.name}),), model)
    assert applied.reasons == (f"{first.name}: stays in float",)
    assert sum(node.op_type == "QuantizeLinear" for node in model.graph) == len(second.states)
    (applied,) = apply((QuantizeState({}),), model_from_path(tiny_graph))
    assert "the calibration table does not know" in applied.reasons[0]
