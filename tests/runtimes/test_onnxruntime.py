from pathlib import Path

import numpy as np
import pytest

from dnexport.data.images import input_from_pixels
from dnexport.errors import BuildFailed, TargetUnavailable
from dnexport.measure.accuracy import snr_db
from dnexport.models.export import graph_logits
from dnexport.runtimes.contract import BuildOptions, SessionOptions
from dnexport.runtimes.onnxruntime import OnnxRuntime
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.profile import Profile
from dnexport.spec.target import Target
from tests.networks import TINY_PREPROCESS, tiny_pixels

TARGET = Target.parse("onnxruntime:cpu")


def images(count: int = 6) -> np.ndarray:
    return input_from_pixels(tiny_pixels(count, seed=5), TINY_PREPROCESS)


def test_fp32_is_executed_as_f32(tiny_graph: Path, tmp_path: Path) -> None:
    compiled = OnnxRuntime().compile(tiny_graph, tmp_path, TARGET, BuildOptions(Profile(), Precision.FP32))
    session = OnnxRuntime().load(compiled.engine, TARGET, SessionOptions(Execution.F32, 2))
    snr = snr_db(graph_logits(tiny_graph, images()), session(images()))
    assert snr is None or snr > 90
    executed = session.executed({})
    assert executed.execution is Execution.F32
    assert executed.proof.conv_work == {"f32": 1.0}
    assert "types of the" in executed.proof.statement


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BuildFailed, match=r"onnxruntime:cpu refuses .*model\.onnx"):
        OnnxRuntime().load(tmp_path / "model.onnx", TARGET, SessionOptions(Execution.F32, 1))


def test_a_device_that_is_not_here_is_refused(tiny_graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = Target.parse("onnxruntime:cuda")
    monkeypatch.setattr("dnexport.runtimes.onnxruntime.gpu_names", list)
    with pytest.raises(TargetUnavailable, match="target onnxruntime:cuda cannot run here: no NVIDIA GPU is here"):
        OnnxRuntime().load(tiny_graph, target, SessionOptions(Execution.F16, 1))
    monkeypatch.setattr("dnexport.runtimes.onnxruntime.gpu_names", lambda: ["a GPU"])
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(TargetUnavailable, match=r"has no CUDA provider; pip install 'dnexport\[gpu\]'"):
        OnnxRuntime().load(tiny_graph, target, SessionOptions(Execution.F16, 1))


def test_a_broken_installation_is_a_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> list[str]:
        raise ImportError("libnvinfer.so.11: cannot open shared object file")

    monkeypatch.setattr("onnxruntime.get_available_providers", fail)
    found = OnnxRuntime().runs(Target.parse("onnxruntime:cpu"))
    assert not found.usable
    assert (
        found.reason == "onnxruntime is installed but does not load: libnvinfer.so.11: cannot open shared object file"
    )
    assert found.remedy == "pip install --force-reinstall onnxruntime"


def test_a_mixed_engine_is_named_after_most_of_its_work(tmp_path: Path) -> None:
    """One convolution of 9.4 M multiply-adds in int8, whose kernel has its weight packed away, and a small float one."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    rng = np.random.default_rng(0)
    big, small = (rng.standard_normal(shape).astype(np.float32) for shape in ((64, 64, 3, 3), (4, 64, 1, 1)))
    nodes = [
        onnx.helper.make_node("Conv", ["input", "big"], ["a"], name="big_conv", pads=[1, 1, 1, 1]),
        onnx.helper.make_node("Conv", ["a", "small"], ["logits"], name="small_conv"),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", channels, 16, 16])
        for name, channels in (("input", 64), ("logits", 4))
    ]
    weights = [onnx.numpy_helper.from_array(array, name) for array, name in ((big, "big"), (small, "small"))]
    graph = onnx.helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 19)], ir_version=10)
    onnx.save(model, tmp_path / "float.onnx")

    class Reader(CalibrationDataReader):
        left = 4

        def get_next(self) -> dict[str, np.ndarray] | None:
            self.left -= 1
            return {"input": rng.standard_normal((1, 64, 16, 16)).astype(np.float32)} if self.left else None

    path = tmp_path / "mixed.onnx"
    quantize_static(
        tmp_path / "float.onnx",
        path,
        Reader(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=["small_conv"],
    )
    session = OnnxRuntime().load(path, TARGET, SessionOptions(Execution.INT8_F32, 2))
    executed = session.executed({"big_conv": 64 * 64 * 9 * 256, "small_conv": 4 * 64 * 256})
    assert executed.execution is Execution.INT8_F32
    assert executed.proof.conv_work["int8"] > 0.95
