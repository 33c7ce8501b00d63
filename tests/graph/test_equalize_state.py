from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.calibrate.collect import ranges_from_batches
from dnexport.data.images import input_from_pixels
from dnexport.graph.contract import apply, model_from_path
from dnexport.graph.dense_blocks import dense_blocks, states
from dnexport.graph.equalize_state import EqualizeState
from tests.graph.texts import model_from_text, random
from tests.networks import TINY_PREPROCESS, tiny_pixels

Evaluate = Callable[[ir.Model, np.ndarray], np.ndarray]


def magnitudes(model: ir.Model, x: np.ndarray) -> dict[str, tuple[float, ...]]:
    names = states(model)
    seen = ranges_from_batches(model, [], [x], lambda _: None, names)
    return {name: tuple(map(float, each)) for name, each in seen.magnitudes.items()}


def test_exact_and_all_channels_alike(tiny_graph: Path, evaluate: Evaluate) -> None:
    x = input_from_pixels(tiny_pixels(8), TINY_PREPROCESS)
    model, before = model_from_path(tiny_graph), magnitudes(model_from_path(tiny_graph), x)
    logits = evaluate(model, x)
    (applied,) = apply((EqualizeState(before),), model)
    assert applied.modified
    assert applied.reasons == ()
    np.testing.assert_allclose(evaluate(model, x), logits, atol=1e-4)
    after = magnitudes(ir.from_proto(ir.to_proto(model)), x)
    for block in dense_blocks(model):
        held = np.concatenate([after[state.name] for state in block.states])
        assert held.max() == pytest.approx(max(max(before[state.name]) for state in block.states), rel=1e-4)
        assert held.min() > 0.99 * held.max()
    spread = np.concatenate([before[state.name] for state in block.states])
    assert spread.min() < 0.8 * spread.max(), "there was something to equalise"


KNOWN = {"a": (1.0, 2.0, 3.0, 4.0), "b": (1.0, 1.0, 1.0, 1.0)}


@pytest.mark.parametrize(
    ("states_are", "reader", "known", "reason"),
    [
        ("a = Conv<kernel_shape=[1,1]>(input, w)", "Relu(c)", KNOWN, "'c' is read by Relu 'node3', which is no norm"),
        ("a = Neg(input)", "BatchNormalization(c, g, g, g, g)", KNOWN, "'a' is a result of Neg"),
        ("a = Conv<kernel_shape=[1,1]>(input, w)", "Neg(c)", {}, "the calibration table does not know 'a'"),
    ],
)
def test_other_blocks_are_declined(states_are: str, reader: str, known: dict, reason: str) -> None:
    body = f"{states_are}  b = Conv<kernel_shape=[1,1]>(input, v)  c = Concat<axis=1>(a, b)  logits = {reader}"
    constants = {"w": random(4, 4, 1, 1), "v": random(4, 4, 1, 1), "g": np.ones(8, np.float32)}
    model = model_from_text(body, constants, out="[batch, 8, 8, 8]")
    (applied,) = apply((EqualizeState(known),), model)
    assert not applied.modified
    assert reason in applied.reasons[0]
