from collections.abc import Callable, Iterator

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.calibrate.rounding import Rounded, rounded_weights
from dnexport.errors import DataError
from dnexport.graph.contract import apply
from dnexport.graph.correct_bias import CorrectBias
from dnexport.graph.insert_qdq import InsertQdq, activation_scale, quantized_weight
from dnexport.graph.values import constant_array
from dnexport.spec.quantization import Range
from tests.graph.test_insert_qdq import table
from tests.graph.texts import model_from_text, random

Evaluate = Callable[[ir.Model, np.ndarray], np.ndarray]


def network(kernel: int = 1, groups: int = 1) -> ir.Model:
    pad = kernel // 2
    body = f"""
        r = Relu(input)
        c = Conv<kernel_shape=[{kernel},{kernel}], pads=[{pad},{pad},{pad},{pad}], group={groups}>(r, w)
        logits = Flatten(c)
    """
    return model_from_text(body, {"w": random(8, 32 // groups, kernel, kernel, seed=2)}, channels=32, out="[batch, n]")


RANGES = {"r": Range(lo=0, hi=12)}


def pictures(count: int = 24, seed: int = 3) -> np.ndarray:
    """32 channels that are mixtures of two."""
    mixed = np.einsum("oc,bchw->bohw", random(32, 2, seed=1), random(count, 2, 8, 8, seed=seed))
    return mixed.astype(np.float32)


def quantized(model: ir.Model, **how: object) -> ir.Model:
    settings = {"centre": "none", "compensate": True, **how}
    bias = settings.pop("bias", True)
    found = rounded_weights(model, table(RANGES), lambda: [pictures()], 24, tick=lambda *_: None, **settings)  # type: ignore[arg-type]
    passes = [InsertQdq(table(RANGES), {name: each.codes for name, each in found.items()})]
    apply([*passes, *([CorrectBias({n: e.bias for n, e in found.items()})] if bias else [])], model)
    return model


def error(model: ir.Model, evaluate: Evaluate, kernel: int, groups: int) -> float:
    """Of the weights alone: the float weights see the quantized activations too."""
    fresh, scale = pictures(64, seed=9), activation_scale(RANGES["r"])
    held = (np.clip(np.round(np.maximum(fresh, 0) / scale), 0, 127) * scale).astype(np.float32)
    return float(((evaluate(model, fresh) - evaluate(network(kernel, groups), held)) ** 2).mean())


@pytest.mark.parametrize(("kernel", "groups"), [(1, 1), (3, 1), (1, 4), (3, 4)])
def test_compensated_rounding_and_bias_win_on_unseen_images(kernel: int, groups: int, evaluate: Evaluate) -> None:
    nearest, bias, gptq = (
        error(quantized(network(kernel, groups), compensate=compensate, bias=corrected), evaluate, kernel, groups)
        for compensate, corrected in ((False, False), (False, True), (True, True))
    )
    assert bias < nearest
    assert gptq < 0.8 * bias


def test_without_compensation_codes_are_the_nearest() -> None:
    model = network()
    found = rounded_weights(
        model, table(RANGES), lambda: [pictures()], 24, centre="none", compensate=False, tick=lambda *_: None
    )
    weight = constant_array(model.graph.initializers["w"])
    assert weight is not None
    assert np.array_equal(found["c"].codes, quantized_weight(weight)[0])
    assert set(found) == {"c"}, "only what has a range"


def test_batches_and_their_size_do_not_matter() -> None:
    def found(sizes: list[int]) -> dict[str, np.ndarray]:
        def batches() -> Iterator[np.ndarray]:
            start = 0
            for size in sizes:
                yield pictures()[start : start + size]
                start += size

        each = rounded_weights(
            network(3), table(RANGES), batches, 24, centre="all", compensate=True, tick=lambda *_: None
        )["c"]
        return {"codes": each.codes, "bias": each.bias}

    whole, parts = found([24]), found([1, 7, 16])
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_activations_that_are_not_finite_are_refused() -> None:
    broken = pictures()
    broken[3] = np.nan
    with pytest.raises(DataError, match="activation 'r' is not finite on the calibration images"):
        rounded_weights(
            network(), table(RANGES), lambda: [broken], 24, centre="none", compensate=True, tick=lambda *_: None
        )


def test_passes_under_a_memory_limit_change_nothing(evaluate: Evaluate) -> None:
    """Two convolutions whose covariances do not fit together."""
    body = """
        r = Relu(input)
        c = Conv<kernel_shape=[1,1]>(r, w)
        d = Relu(c)
        e = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(d, v)
        logits = Flatten(e)
    """
    weights = {"w": random(16, 32, 1, 1, seed=2), "v": random(4, 16, 3, 3, seed=4)}
    ranges = table({"r": Range(lo=0, hi=12), "d": Range(lo=0, hi=20)})
    ticks: list[tuple[int, int]] = []

    def found(memory_bytes: int) -> dict[str, Rounded]:
        ticks.clear()
        return rounded_weights(
            model_from_text(body, weights, channels=32, out="[batch, n]"),
            ranges,
            lambda: [pictures()],
            24,
            centre="all",
            compensate=True,
            tick=lambda *step: ticks.append(step),
            memory_bytes=memory_bytes,
        )

    whole = found(1 << 20)
    assert ticks[-1] == (24, 24)
    parts = found(50_000)
    assert ticks[-1] == (48, 48)
    assert all(np.array_equal(whole[name].codes, parts[name].codes) for name in ("c", "e"))
    assert all(np.array_equal(whole[name].bias, parts[name].bias) for name in ("c", "e"))
