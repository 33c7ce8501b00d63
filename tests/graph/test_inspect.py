from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.graph.contract import apply, model_from_path, save_model
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.graph.inspect import findings
from dnexport.graph.passes_for import canonical_passes, passes_for
from dnexport.spec.precision import Precision
from dnexport.spec.quantization import Range
from dnexport.spec.target import Target
from tests.graph.test_insert_qdq import table
from tests.graph.test_pad_groups import grouped
from tests.graph.texts import model_from_text, random

NORM = {"g": random(4), "b": random(4), "m": random(4), "v": np.abs(random(4)) + 1}
SCALE, WEIGHT = np.float32(0.1), random(4, 4, 1, 1)


def quantize(zero: np.ndarray, scale: float = 0.1) -> ir.Model:
    body = "q = QuantizeLinear(input, s, z)\n d = DequantizeLinear(q, s, z)\n logits = Flatten(d)"
    return model_from_text(body, {"s": np.asarray(scale, np.float32), "z": zero}, out="[batch, n]")


BAD = {
    "unfused batch norm": (model_from_text("c = Conv(input, w)\n logits = BatchNormalization(c, g, b, m, v)", {"w": WEIGHT, **NORM}), ("node1",)),
    "concatenation of one input": (model_from_text("logits = Concat<axis=1>(input)", {}), ("node0",)),
    "pooling behind a 1×1 convolution": (
        model_from_text("c = Conv(input, w)\n logits = AveragePool<kernel_shape=[2,2], strides=[2,2]>(c)", {"w": WEIGHT}), ("node1",),
    ),
    "int32 bias": (
        model_from_text("i = DequantizeLinear(b, s)\n logits = Conv(input, w, i)", {"w": WEIGHT, "s": SCALE, "b": np.arange(4, dtype=np.int32)}), ("node1",),
    ),
    "zero point that is not zero": (quantize(np.asarray(3, np.int8)), ("node0", "node1")),
    "uint8 data": (quantize(np.asarray(0, np.uint8)), ("node0", "node1")),
    "FP16 overflow": (model_from_text("logits = Conv(input, w)", {"w": WEIGHT * np.float32(1e6)}), ("w",)),
    "FP16 scale underflow": (quantize(np.asarray(0, np.int8), 1e-6), ("node0", "node1")),
    "one scale for a concatenation": (
        model_from_text("k = Concat<axis=1>(input, input)\n q = QuantizeLinear(k, s, z)\n logits = DequantizeLinear(q, s, z)", {"s": SCALE, "z": np.asarray(0, np.int8)}), ("node0",),
    ),
    "grouped INT8 convolution of odd width": (grouped(68, gather=True), ("node3",)),
}  # fmt: skip


@pytest.mark.parametrize("rule", BAD)
def test_what_hurts_is_found_and_nothing_else(rule: str) -> None:
    model, where = BAD[rule]
    (found,) = findings(model)
    assert found.rule == rule
    assert found.where == where
    assert found.why
    assert found.remedy


def test_an_old_opset_and_a_missing_bias_are_found() -> None:
    model = model_from_text("logits = Relu(input)", {})
    model.opset_imports[""] = 11
    assert [f.where for f in findings(model)] == [("opset 11",)]
    body = "c = Conv(input, w)\n n = BatchNormalization(c, g, b, m, v)\n k = Concat<axis=1>(c, n)\n logits = Flatten(k)"
    model = model_from_text(body, {"w": WEIGHT, **NORM}, out="[batch, n]")
    assert not findings(model), "in float it is right"
    apply((InsertQdq(table({"input": Range(lo=-3, hi=3)})),), model)
    assert [f.rule for f in findings(model)] == ["INT8 convolution without bias, norm and concatenation behind it"]
    apply(passes_for(Precision.INT8, Target.parse("openvino:cpu")), model)
    assert not findings(model), "as lowered"


def test_what_dnexport_writes_is_clean(tiny_graph: Path) -> None:
    model = model_from_path(tiny_graph)
    assert [f.rule for f in findings(model)] == ["pooling behind a 1×1 convolution"], "as it is exported"
    apply(canonical_passes(), model)
    assert not findings(model)


def test_the_command_says_it(tmp_path: Path, run_cli: object) -> None:
    save_model(BAD["uint8 data"][0], tmp_path / "m.onnx")
    done = run_cli("inspect", "m.onnx", cwd=tmp_path)  # type: ignore[operator]
    assert done.returncode == 0
    assert "opset 19: 1 QuantizeLinear, 1 DequantizeLinear, 1 Flatten" in done.stdout
    assert "uint8 data: node0, node1\n  TensorRT takes int8 only\n" in done.stdout
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    assert run_cli("inspect", "broken.onnx", cwd=tmp_path).returncode == 3  # type: ignore[operator]
