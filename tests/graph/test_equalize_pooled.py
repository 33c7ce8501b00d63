from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.graph.contract import apply
from dnexport.graph.equalize_pooled import EqualizePooled
from dnexport.spec.quantization import ChannelRanges
from tests.graph.test_equalize_state import channels
from tests.graph.texts import images, model_from_text, random

Evaluate = Callable[[ir.Model, np.ndarray], np.ndarray]

TRANSITION = """
    n = BatchNormalization(input, g, h, m, s)
    r = Relu(n)
    p = AveragePool<kernel_shape=[2,2], strides=[2,2]>(r)
    logits = Conv<kernel_shape=[1,1]>(p, w)
"""


def transition(body: str = TRANSITION, *, outputs: int = 2) -> ir.Model:
    constants = {
        "g": np.array([0.1, 1, -3, 0], np.float32), "h": np.array([0, 0.5, 1, -1], np.float32), "m": random(4),
        "s": np.ones(4, np.float32), "w": random(outputs, 4, 1, 1, seed=2),
    }  # fmt: skip
    return model_from_text(body, constants, out=f"[batch, {outputs}, 4, 4]")


def test_exact_and_all_that_is_pooled_alike(evaluate: Evaluate) -> None:
    model, x = transition(), images(count=8)
    logits, before = evaluate(model, x), channels(model, x, "r", "p")
    assert before["r"].hi[3] == 0, "a channel that is always 0 stays so"
    equalize = EqualizePooled(before)
    (applied,) = apply((equalize,), model)
    assert applied.modified
    np.testing.assert_allclose(evaluate(model, x), logits, atol=1e-5)
    after = channels(model, x, "r", "p")
    assert after["r"].hi == pytest.approx([*[before["r"].largest] * 3, 0], rel=1e-4)
    for name, seen in after.items():
        assert equalize.moved[name].hi == pytest.approx(seen.hi, rel=1e-4)
    assert equalize.moved.keys() == {"r", "p"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("r = Relu(n)", "r = Neg(n)"), "what it pools is no norm behind a ReLU"),
        (("logits = Conv<kernel_shape=[1,1]>(p, w)", "o = Conv<kernel_shape=[1,1]>(p, w) q = AveragePool<kernel_shape=[2,2], strides=[2,2]>(n) logits = Add(o, q)"), "or others read it"),
        (("(p, w)", "(p, v)"), "no constant weight for each channel"),
        (("<kernel_shape=[1,1]>", "<kernel_shape=[1,1], group=2>"), "no constant weight for each channel"),
    ],
)  # fmt: skip
def test_others_are_declined(change: tuple[str, str], reason: str) -> None:
    body = ("v = Neg(w) " if "v)" in change[1] else "") + TRANSITION.replace(*change)
    model = transition(body, outputs=4)
    known = dict.fromkeys(("r", "p"), ChannelRanges(lo=(0,) * 4, hi=(1, 2, 3, 4)))
    (applied,) = apply((EqualizePooled(known),), model)
    assert not applied.modified
    assert reason in applied.reasons[0]


def test_a_norm_whose_constants_are_one_is_no_obstacle(evaluate: Evaluate) -> None:
    """As exporters write that deduplicate equal constants."""
    model, x = transition(TRANSITION.replace("(input, g, h, m, s)", "(input, s, s, m, s)")), images(count=8)
    logits = evaluate(model, x)
    (applied,) = apply((EqualizePooled(channels(model, x, "r", "p")),), model)
    assert applied.modified
    np.testing.assert_allclose(evaluate(model, x), logits, atol=1e-5)


def test_an_unknown_tensor_is_declined() -> None:
    (applied,) = apply((EqualizePooled({}),), transition())
    assert "the calibration table does not know 'r'" in applied.reasons[0]
