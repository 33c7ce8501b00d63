from pathlib import Path

import pytest

from dnexport.deploy.compile import compile_target
from dnexport.errors import BuildFailed, TargetUnavailable
from dnexport.graph.contract import apply, model_from_path, save_model
from dnexport.graph.insert_qdq import InsertQdq, quantization_points
from dnexport.graph.passes_for import passes_for
from dnexport.runtimes.contract import SessionOptions
from dnexport.runtimes.gpu import gpu_names
from dnexport.runtimes.tensorrt import TensorRT
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.profile import Profile
from dnexport.spec.quantization import Range
from dnexport.spec.target import Target
from tests.graph.test_insert_qdq import table

RTX = Target.parse("tensorrt-rtx:sm86+sm89")


def lowered(graph: Path, folder: Path, precision: Precision) -> Path:
    model = model_from_path(graph)
    if precision is Precision.INT8:
        apply((InsertQdq(table({name: Range(lo=-5, hi=5) for name in quantization_points(model)})),), model)
    apply(passes_for(precision, RTX), model)
    save_model(model, folder / "lowered.onnx")
    return folder / "lowered.onnx"


@pytest.mark.parametrize(
    ("precision", "proof"),
    [
        (Precision.FP32, "all 10 convolutions are typed FLOAT in the parsed network"),
        (Precision.FP16, "all 10 convolutions are typed HALF in the parsed network"),
        (Precision.INT8, "with 10 quantize layers at their inputs; that INT8 kernels are chosen is unproven"),
    ],
)
def test_builds_a_real_plan_without_a_gpu(tiny_graph: Path, tmp_path: Path, precision: Precision, proof: str) -> None:
    compiled = compile_target(lowered(tiny_graph, tmp_path, precision), tmp_path, RTX, Profile(), precision)
    assert proof in compiled.proof
    plan = compiled.engine.read_bytes()
    assert len(plan) > 10_000
    assert compiled.engine.name == "engine.plan"


def test_an_fp32_graph_is_not_taken_for_fp16(tiny_graph: Path, tmp_path: Path) -> None:
    """The failure that users report most: a strongly typed builder makes an FP32 engine of it without a word."""
    with pytest.raises(BuildFailed, match="10 of 10 convolutions of the parsed network are not HALF"):
        compile_target(tiny_graph, tmp_path, RTX, Profile(), Precision.FP16)
    assert not (tmp_path / "engine.plan").exists()


def test_an_unquantized_graph_is_not_taken_for_int8(tiny_graph: Path, tmp_path: Path) -> None:
    graph = lowered(tiny_graph, tmp_path, Precision.FP16)
    with pytest.raises(BuildFailed, match="the parsed network has no quantize layer"):
        compile_target(graph, tmp_path, RTX, Profile(), Precision.INT8)


def test_a_capability_that_it_does_not_build_for_is_named(tiny_graph: Path, tmp_path: Path) -> None:
    graph = lowered(tiny_graph, tmp_path, Precision.FP16)
    with pytest.raises(TargetUnavailable, match="does not build for sm87; it builds for sm"):
        compile_target(graph, tmp_path, Target.parse("tensorrt-rtx:sm87"), Profile(), Precision.FP16)


def test_a_broken_graph_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(BuildFailed, match=r"tensorrt-rtx:sm86\+sm89"):
        compile_target(tmp_path / "broken.onnx", tmp_path, RTX, Profile(), Precision.FP16)


@pytest.mark.skipif(bool(gpu_names()), reason="an NVIDIA GPU is here")
def test_running_needs_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match="cannot run here: no NVIDIA GPU is here; copy the bundle"):
        TensorRT().load(tmp_path / "engine.plan", RTX, SessionOptions(Execution.F16, 1))
    with pytest.raises(TargetUnavailable, match="target tensorrt cannot be built here"):
        TensorRT().compile(tmp_path / "g.onnx", tmp_path, Target.parse("tensorrt"), Profile(), Precision.FP16)
