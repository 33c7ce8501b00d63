from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.graph.contract import apply
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.graph.pad_groups import PadGroups
from dnexport.spec.quantization import Range
from tests.graph.test_insert_qdq import table
from tests.graph.texts import images, model_from_text, operators, random

Evaluate = Callable[[ir.Model, np.ndarray], np.ndarray]


def grouped(
    channels: int, *, gather: bool, groups: int = 2, kernel: int = 1, shared: bool = False, hi: float = 4
) -> ir.Model:
    """Gather, norm, ReLU, quantized grouped convolution, as in a CondenseNet; or without the gather."""
    first = (
        "x = Gather<axis=1>(input, i)\n n = BatchNormalization(x, g, b, m, v)\n r = Relu(n)"
        if gather
        else "r = Relu(input)"
    )
    last = f"k = Conv<kernel_shape=[1,1], group={groups}>(r, w2)\n s = Add(c, k)" if shared else "s = Identity(c)"
    body = f"""
        {first}
        c = Conv<kernel_shape=[{kernel},{kernel}], pads=[{kernel // 2},{kernel // 2},{kernel // 2},{kernel // 2}], group={groups}>(r, w)
        {last}
        p = GlobalAveragePool(s)
        logits = Flatten(p)
    """
    wide = groups * channels
    constants = {
        "i": np.random.default_rng(0).integers(0, 4, wide), "g": np.abs(random(wide, seed=2)), "b": random(wide, seed=3),
        "m": random(wide, seed=4), "v": np.abs(random(wide, seed=5)) + 1, "w": random(8, channels, kernel, kernel) * np.float32(0.1),
    }  # fmt: skip
    if shared:
        constants["w2"] = random(8, channels, 1, 1, seed=6) * np.float32(0.1)
    used = constants if gather else {name: constants[name] for name in ("w", "w2") if name in constants}
    model = model_from_text(body, used, channels=4 if gather else wide, out="[batch, 8]")
    apply((InsertQdq(table({"r": Range(lo=0, hi=hi)})),), model)
    return model


def widths(model: ir.Model) -> list[int]:
    return [int(n.inputs[1].shape[1]) for n in model.graph if n.op_type == "Conv"]


@pytest.mark.parametrize("gather", [True, False])
@pytest.mark.parametrize(("channels", "wanted"), [(65, 128), (68, 128), (130, 192)])
def test_groups_are_padded_without_changing_the_logits(
    gather: bool, channels: int, wanted: int, evaluate: Evaluate
) -> None:
    model = grouped(channels, gather=gather)
    x = images(4 if gather else 2 * channels)
    before, operators_before = evaluate(model, x), operators(model)
    (applied,) = apply((PadGroups(),), model)
    assert applied.modified
    assert widths(model) == [wanted]
    np.testing.assert_array_equal(evaluate(model, x), before)
    # In a CondenseNet the gather that is there grows; elsewhere one is added.
    assert operators(model).count("Gather") == 1
    assert gather == (operators(model) == operators_before)


@pytest.mark.parametrize(
    ("channels", "groups", "kernel"), [(64, 2, 1), (128, 2, 1), (20, 2, 1), (68, 1, 1), (68, 2, 3)]
)
def test_what_is_computed_right_stays(channels: int, groups: int, kernel: int) -> None:
    model = grouped(channels, gather=False, groups=groups, kernel=kernel)
    (applied,) = apply((PadGroups(),), model)
    assert not applied.modified


def test_a_shared_input_is_gathered_for_each_reader(evaluate: Evaluate) -> None:
    model = grouped(68, gather=True, shared=True)
    before = evaluate(model, images(4))
    apply((PadGroups(),), model)
    assert widths(model) == [128, 128]
    np.testing.assert_array_equal(evaluate(model, images(4)), before)
