from collections.abc import Callable

import numpy as np
import pytest

from dnexport.graph.contract import apply
from dnexport.graph.pool_before_conv import PoolBeforeConv
from tests.graph.texts import images, model_from_text, operators, random

POOL = "AveragePool<kernel_shape=[2,2], strides=[2,2]>"


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no_bias"])
def test_commutes_exactly(evaluate: Callable[..., np.ndarray], bias: bool) -> None:
    constants = {"w": random(2, 4, 1, 1), **({"b": random(2)} if bias else {})}
    body = f"a = Conv<kernel_shape=[1,1]>(input, w{', b' if bias else ''}) logits = {POOL}(a)"
    model = model_from_text(body, constants)
    before = evaluate(model, images())
    (applied,) = apply((PoolBeforeConv(),), model)
    assert applied.modified
    assert operators(model) == ["AveragePool", "Conv"]
    np.testing.assert_allclose(evaluate(model, images()), before, atol=1e-5)
    pooled = next(iter(model.graph)).outputs[0]
    assert list(pooled.shape)[1:] == [4, 4, 4]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (f"a = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(input, w) logits = {POOL}(a)", "not a 1×1"),
        (f"a = Conv<kernel_shape=[1,1], pads=[1,1,1,1]>(input, v) logits = {POOL}(a)", "padding"),
        ("a = Conv<kernel_shape=[1,1]>(input, v) logits = AveragePool<kernel_shape=[2,2], strides=[2,2], pads=[1,1,1,1]>(a)", "padding"),
        ("a = Conv<kernel_shape=[1,1]>(input, v) logits = AveragePool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>(a)", "ceil_mode"),
        (f"a = Conv<kernel_shape=[1,1], strides=[2,2]>(input, v) logits = {POOL}(a)", "stride"),
        (f"a = Conv<kernel_shape=[1,1]>(input, v) p = {POOL}(a) q = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a) logits = Add(p, q)", "read by another"),
    ],
)  # fmt: skip
def test_declines_with_a_reason(body: str, reason: str) -> None:
    out = "[batch, 2, h, w]"
    model = model_from_text(body, {"w": random(2, 4, 3, 3), "v": random(2, 4, 1, 1)}, out=out)
    (applied,) = apply((PoolBeforeConv(),), model)
    assert not applied.modified
    assert reason in applied.reasons[0]


def test_max_pooling_is_left_alone() -> None:
    body = "a = Conv<kernel_shape=[1,1]>(input, w) logits = MaxPool<kernel_shape=[2,2], strides=[2,2]>(a)"
    (applied,) = apply((PoolBeforeConv(),), model_from_text(body, {"w": random(2, 4, 1, 1)}))
    assert (applied.modified, applied.reasons) == (False, ())
