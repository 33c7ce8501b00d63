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
from dnexport.spec.quantization import ChannelRanges
from tests.graph.texts import images, model_from_text, random
from tests.networks import TINY_PREPROCESS, tiny_pixels

Evaluate = Callable[[ir.Model, np.ndarray], np.ndarray]


def channels(model: ir.Model, x: np.ndarray, *others: str) -> dict[str, ChannelRanges]:
    """What is seen of the states, and of others, when a copy of the model runs."""
    copy = ir.from_proto(ir.to_proto(model))
    seen = ranges_from_batches(copy, [], [x], lambda _: None, (*states(model), *others))
    return {
        name: ChannelRanges(lo=tuple(map(float, lo)), hi=tuple(map(float, hi)))
        for name, (lo, hi) in seen.channels.items()
    }


def ends(seen: dict[str, ChannelRanges], names: tuple[ir.Value, ...]) -> tuple[np.ndarray, np.ndarray]:
    lo, hi = ([end for name in names for end in getattr(seen[name.name], side)] for side in ("lo", "hi"))
    return np.asarray(lo), np.asarray(hi)


def test_exact_and_all_channels_alike_around_zero(tiny_graph: Path, evaluate: Evaluate) -> None:
    x = input_from_pixels(tiny_pixels(8), TINY_PREPROCESS)
    model, before = model_from_path(tiny_graph), channels(model_from_path(tiny_graph), x)
    logits = evaluate(model, x)
    equalize = EqualizeState(before)
    (applied,) = apply((equalize,), model)
    assert applied.modified
    assert applied.reasons == ()
    np.testing.assert_allclose(evaluate(model, x), logits, atol=1e-4)
    after = channels(model, x)
    for block in dense_blocks(model):
        lo, hi = ends(after, block.states)
        np.testing.assert_allclose(-lo, hi, rtol=1e-3)
        assert hi.min() > 0.99 * hi.max()
        was_lo, was_hi = ends(before, block.states)
        half = (was_hi - was_lo) / 2
        assert hi.max() == pytest.approx(half.max(), rel=1e-4)
        assert half.min() < 0.8 * half.max(), "there was something to equalise"
        assert np.abs(was_hi + was_lo).max() > 0.2 * half.max(), "and something to centre"
        for expected, found in zip(ends(equalize.channels, block.states), (lo, hi), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_without_centring_channels_keep_their_place(tiny_graph: Path, evaluate: Evaluate) -> None:
    x = input_from_pixels(tiny_pixels(8), TINY_PREPROCESS)
    model, before = model_from_path(tiny_graph), channels(model_from_path(tiny_graph), x)
    logits = evaluate(model, x)
    apply((EqualizeState(before, centre=False),), model)
    np.testing.assert_allclose(evaluate(model, x), logits, atol=1e-4)
    for block in dense_blocks(model):
        lo, hi = ends(channels(model, x), block.states)
        was_lo, was_hi = ends(before, block.states)
        np.testing.assert_allclose(lo * was_hi, hi * was_lo, rtol=1e-2, atol=1e-3)
        assert np.maximum(-lo, hi).min() > 0.99 * np.maximum(-lo, hi).max()


@pytest.mark.parametrize(
    ("between", "shifted"),
    [
        ("a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(z)", True),
        ("a = AveragePool<kernel_shape=[2,2], strides=[2,2]>(z)", True),
        ("a = AveragePool<kernel_shape=[3,3], strides=[2,2], pads=[1,1,1,1], count_include_pad=1>(z)", False),
        ("r = Relu(z) a = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)", False),
    ],
)
def test_a_shift_stops_where_it_would_change_something(between: str, shifted: bool, evaluate: Evaluate) -> None:
    """A ReLU, and a padded mean, which counts zeros; factors pass everywhere."""
    body = f"""
        z = Conv<kernel_shape=[1,1]>(input, w, k)
        {between}
        b = Conv<kernel_shape=[2,2], strides=[2,2]>(input, v)
        c = Concat<axis=1>(a, b)
        logits = BatchNormalization(c, g, h, m, s)
    """
    constants = {"w": random(4, 4, 1, 1), "v": random(4, 4, 2, 2, seed=1), "k": random(4, seed=2) + 2, "g": random(8, seed=3),
                 "h": random(8, seed=4), "m": random(8, seed=5), "s": np.ones(8, np.float32)}  # fmt: skip
    model = model_from_text(body, constants, out="[batch, 8, 4, 4]")
    logits, x = evaluate(model, images()), images()
    (applied,) = apply((EqualizeState(channels(model, x)),), model)
    assert applied.modified
    np.testing.assert_allclose(evaluate(model, x), logits, atol=2e-5)
    after = channels(model, x)
    lo, hi = np.asarray(after["a"].lo), np.asarray(after["a"].hi)
    assert np.allclose(-lo, hi, rtol=1e-3) == shifted
    assert np.maximum(-lo, hi) == pytest.approx(np.full(4, max(after["b"].largest, after["a"].largest)), rel=1e-3)


KNOWN = {"a": ChannelRanges(lo=(0,) * 4, hi=(1, 2, 3, 4)), "b": ChannelRanges(lo=(-1,) * 4, hi=(1,) * 4)}


@pytest.mark.parametrize(
    ("states_are", "reader", "known", "reason"),
    [
        ("a = Conv<kernel_shape=[1,1]>(input, w)", "Relu(c)", KNOWN, "'c' is read by Relu 'node3', which is no norm"),
        (
            "k = Neg(h) a = Conv<kernel_shape=[1,1]>(input, w, k)",
            "BatchNormalization(c, g, g, g, g)",
            KNOWN,
            "the weight or bias of node1 is not a constant",
        ),
        ("a = Neg(input)", "BatchNormalization(c, g, g, g, g)", KNOWN, "'a' is a result of Neg"),
        ("a = Conv<kernel_shape=[1,1]>(input, w)", "Neg(c)", {}, "the calibration table does not know 'a'"),
    ],
)
def test_other_blocks_are_declined(states_are: str, reader: str, known: dict, reason: str) -> None:
    body = f"{states_are}  b = Conv<kernel_shape=[1,1]>(input, v)  c = Concat<axis=1>(a, b)  logits = {reader}"
    constants = {"w": random(4, 4, 1, 1), "v": random(4, 4, 1, 1), "g": np.ones(8, np.float32), "h": random(4)}
    model = model_from_text(body, constants, out="[batch, 8, 8, 8]")
    (applied,) = apply((EqualizeState(known),), model)
    assert not applied.modified
    assert reason in applied.reasons[0]
