"""OpenVINO 2026.4.1 miscomputes some patterns of INT8 on some processors, without a message.

A bias-less convolution that feeds an affine and a concatenation; and a grouped 1×1 convolution with more than 64 input
channels a group that are not a multiple of 64. Both were seen with AMX. The tests prove what the lowering writes, on
any processor; ``python -m tests.runtimes.test_openvino_defect`` prints what the patterns are as they stand on this one.

With ranges sixteen times as wide as they need be all codes are small, so that no sum of two products saturates.
"""

import functools
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.graph.contract import apply, save_model
from dnexport.graph.dense_blocks import states
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.graph.nonzero_bias import NonzeroBias
from dnexport.graph.passes_for import passes_for
from dnexport.graph.quantize_state import QuantizeState
from dnexport.measure.accuracy import snr_db
from dnexport.measure.environment import environment
from dnexport.runtimes.contract import SessionOptions
from dnexport.runtimes.openvino import OpenVino
from dnexport.runtimes.registry import open_session
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.quantization import CalibrationTable, ChannelRanges, Range
from dnexport.spec.target import Target
from tests.graph.test_insert_qdq import table
from tests.graph.test_pad_groups import grouped
from tests.graph.texts import model_from_text, random
from tests.needs import needs

pytestmark = [needs("openvino:cpu"), pytest.mark.instructions]
WIDE = 16
RANGES = [pytest.param(1, marks=needs("vnni")), WIDE]

OPENVINO, OWN = Target.parse("openvino:cpu"), Target.parse("onnxruntime:cpu")


def seen(wide: int) -> CalibrationTable:
    return table({"input": Range(lo=0, hi=4 * wide), "r": Range(lo=0, hi=12 * wide)})


def pattern(wide: int = 1, *, bias: bool = False) -> ir.Model:
    """The stem and the first dense layer: conv0 feeds norm1 and the block's concatenation."""
    body = """
        c = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(input, w0)
        n = BatchNormalization(c, g, b, m, v)
        r = Relu(n)
        d = Conv<kernel_shape=[3,3], pads=[1,1,1,1]>(r, w1)
        k = Concat<axis=1>(c, d)
        p = GlobalAveragePool(k)
        logits = Flatten(p)
    """
    constants = {
        "w0": random(16, 4, 3, 3), "w1": random(12, 16, 3, 3, seed=1) * np.float32(0.1),
        "g": np.abs(random(16, seed=2)), "b": random(16, seed=3), "m": random(16, seed=4), "v": np.abs(random(16, seed=5)) + 1,
    }  # fmt: skip
    if bias:
        body, constants = body.replace("(input, w0)", "(input, w0, b0)"), constants | {"b0": random(16, seed=6) * 3}
    model = model_from_text(body, constants, out="[batch, 28]")
    apply((InsertQdq(seen(wide)),), model)
    return model


def agreement(model: ir.Model, folder: Path) -> float:
    """OpenVINO's answers against ONNX Runtime's on the same graph, in dB."""
    save_model(model, folder / "model.onnx")
    images = np.abs(random(64, 4, 8, 8, seed=8))
    options = SessionOptions(Execution.INT8_F32, 2)
    answers = [open_session(folder / "model.onnx", target, options)(images) for target in (OWN, OPENVINO)]
    snr = snr_db(answers[0], answers[1])
    return np.inf if snr is None else snr


def lowered(model: ir.Model) -> ir.Model:
    apply(passes_for(Precision.INT8, OPENVINO), model)
    return model


@pytest.mark.parametrize("wide", RANGES)
def test_the_stem_of_a_dense_block_is_right_as_lowered(wide: int, tmp_path: Path) -> None:
    assert agreement(lowered(pattern(wide)), tmp_path) > 35


@pytest.mark.parametrize("wide", RANGES)
def test_a_state_that_a_norm_reads_too_keeps_its_bias(wide: int, tmp_path: Path) -> None:
    """The stem of a dense block in placement state, whose bias is large since the state is centred."""
    model = pattern(wide, bias=True)
    channels = dict.fromkeys(states(model), ChannelRanges(lo=(-6,), hi=(6,)))
    apply((QuantizeState(seen(wide).model_copy(update={"channels": channels})),), model)
    lowered(model)
    assert "DequantizeLinear" in {
        each.producer().op_type for node in model.graph if node.op_type == "Concat" for each in node.inputs
    }
    assert agreement(model, tmp_path) > 35


@pytest.mark.parametrize("wide", RANGES)
@pytest.mark.parametrize("channels", [68, 96, 200])
def test_grouped_convolutions_of_odd_width_are_right_as_lowered(channels: int, wide: int, tmp_path: Path) -> None:
    assert agreement(lowered(grouped(channels, gather=True, hi=4 * wide)), tmp_path) > 35


def main() -> None:
    """Each pattern as it stands and as it is lowered: where both are right, this processor does not have the defect."""
    machine = environment()
    print(f"{machine.cpu}, {' '.join(machine.cpu_features)}; {OpenVino().runs(OPENVINO).reason}\n")
    print("| pattern | as it stands, dB | as lowered, dB |\n|---|---|---|")
    makers = {"stem of a dense block": lambda: pattern(WIDE)}
    makers |= {f"1×1, groups of {n}": functools.partial(grouped, n, gather=True, hi=4 * WIDE) for n in (68, 96, 200)}
    with tempfile.TemporaryDirectory() as folder:
        for name, make in makers.items():
            bare = make()
            if not name.startswith("stem"):
                apply((NonzeroBias(),), bare)
            pair = (agreement(bare, Path(folder)), agreement(lowered(make()), Path(folder)))
            print(f"| {name} | {pair[0]:.1f} | {pair[1]:.1f} |")


if __name__ == "__main__":
    main()
