from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from dnexport.graph.cast_float16 import CastFloat16
from dnexport.graph.contract import apply
from dnexport.graph.fold_batchnorm import FoldBatchNorm
from dnexport.graph.unit_batchnorm import UnitBatchNorm
from dnexport.measure.accuracy import snr_db
from tests.graph.texts import images, model_from_text, operators, random


def statistics(channels: int, variance: float = 1.0) -> dict[str, np.ndarray]:
    spread = (np.abs(random(channels, seed=4)) + np.float32(0.1)) * np.float32(variance)
    return {"g": random(channels, seed=1), "b": random(channels, seed=2), "m": random(channels, seed=3), "v": spread}


def norm_after_conv() -> ir.Model:
    body = "a = Conv<kernel_shape=[1,1]>(input, w) logits = BatchNormalization(a, g, b, m, v)"
    return model_from_text(body, {"w": random(2, 4, 1, 1), **statistics(2)}, out="[batch, 2, 8, 8]")


def norm_after_concat(variance: float = 1.0) -> ir.Model:
    body = "a = Concat<axis=1>(input, input) logits = BatchNormalization(a, g, b, m, v)"
    return model_from_text(body, statistics(8, variance), out="[batch, 8, 8, 8]")


def test_folds_into_a_convolution(evaluate: Callable[..., np.ndarray]) -> None:
    model = norm_after_conv()
    before = evaluate(model, images())
    (applied,) = apply((FoldBatchNorm(),), model)
    assert (applied.modified, applied.reasons) == (True, ())
    assert operators(model) == ["Conv"]
    np.testing.assert_allclose(evaluate(model, images()), before, atol=1e-5)


def test_says_why_the_rest_stays() -> None:
    (applied,) = apply((FoldBatchNorm(),), norm_after_concat())
    assert (applied.modified, applied.reasons) == (False, ("node1: follows Concat, not a convolution",))
    body = "a = Conv<kernel_shape=[1,1]>(input, w) n = BatchNormalization(a, g, b, m, v) logits = Add(a, n)"
    shared = model_from_text(body, {"w": random(2, 4, 1, 1), **statistics(2)}, out="[batch, 2, 8, 8]")
    (applied,) = apply((FoldBatchNorm(),), shared)
    assert applied.reasons == ("node1: follows a convolution that another node reads too",)


def test_restating_is_exact_in_fp32_and_idempotent(evaluate: Callable[..., np.ndarray]) -> None:
    model = norm_after_concat()
    before = evaluate(model, images())
    first, second = apply((UnitBatchNorm(), UnitBatchNorm()), model)
    assert (first.modified, second.modified) == (True, False)
    np.testing.assert_allclose(evaluate(model, images()), before, atol=1e-5)


def test_restating_saves_a_small_variance_in_fp16(evaluate: Callable[..., np.ndarray]) -> None:
    """A variance below FP16's smallest number is lost by a plain cast; s and the shift are not."""
    reference = evaluate(norm_after_concat(1e-9), images())
    plain, restated = norm_after_concat(1e-9), norm_after_concat(1e-9)
    apply((CastFloat16(),), plain)
    apply((UnitBatchNorm(), CastFloat16()), restated)
    flat = [evaluate(model, images()).reshape(3, -1) for model in (plain, restated)]
    snrs = [snr_db(reference.reshape(3, -1), y) for y in flat]
    assert snrs[1] > 50
    assert snrs[1] > snrs[0] + 3


def test_statistics_that_are_computed_are_declined() -> None:
    body = "g2 = Add(g, g) a = Concat<axis=1>(input, input) logits = BatchNormalization(a, g2, b, m, v)"
    (applied,) = apply((UnitBatchNorm(),), model_from_text(body, statistics(8), out="[batch, 8, 8, 8]"))
    assert applied.reasons == ("node2: its statistics are not constants",)


def test_nothing_of_a_folded_norm_is_left() -> None:
    """A variance above FP16's largest number, say, that no node reads any more."""
    model = norm_after_conv()
    model.graph.initializers["v"].const_value = ir.tensor(np.full(2, 1e6, np.float32), name="v")
    apply((FoldBatchNorm(), CastFloat16()), model)
    used = {value.name for node in model.graph for value in node.inputs if value is not None}
    assert set(model.graph.initializers) <= used
