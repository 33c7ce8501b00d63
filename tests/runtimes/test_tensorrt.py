"""Plans are built for real by TensorRT for RTX, which needs no GPU for that; running them is tested in `tests/gpu`."""

import importlib
import shutil
import stat
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dnexport.errors import BadInput, BuildFailed, TargetUnavailable, UsageError
from dnexport.graph.census import census_from_model
from dnexport.graph.contract import apply, model_from_path, save_model
from dnexport.graph.insert_qdq import InsertQdq, quantization_points
from dnexport.graph.passes_for import passes_for
from dnexport.runtimes.contract import BuildOptions, Compiled, Runtime, SessionOptions
from dnexport.runtimes.gpu import gpu_capabilities, gpu_names
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.registry import compile_engine
from dnexport.runtimes.tensorrt import TensorRT, _config, _conv_work, _hardware_level, _timing_cache
from dnexport.runtimes.tensorrt_plan import Tensor, check_images, loaded_engine, reason_against, tensor_from_profile
from dnexport.spec.engine import EngineOptions
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.profile import Profile
from dnexport.spec.quantization import Range
from dnexport.spec.target import Target
from tests.graph.test_insert_qdq import table
from tests.graph.texts import model_from_text, random
from tests.networks import TINY_PREPROCESS

RTX = Target.parse("tensorrt-rtx:sm86+sm89")
TENSORRT = Target.parse("tensorrt")


def lowered(graph: Path, folder: Path, precision: Precision, *, pixels: bool = False) -> Path:
    model = model_from_path(graph)
    if precision is Precision.INT8:
        apply((InsertQdq(table({name: Range(lo=-5, hi=5) for name in quantization_points(model)})),), model)
    apply(passes_for(precision, RTX, TINY_PREPROCESS if pixels else None), model)
    save_model(model, folder / "lowered.onnx")
    return folder / "lowered.onnx"


def build(graph: Path, precision: Precision, engine: EngineOptions | None = None, target: Target = RTX) -> Compiled:
    """Beside the graph and in a worker, as `deploy.compile` does."""
    options = BuildOptions(Profile(), precision, engine or EngineOptions(), graph.parent / "timing.cache")
    with Worker(f"building {target}", env=TensorRT().environment(target)) as worker:
        return worker.call(compile_engine, graph, graph.parent, target, options)


@pytest.fixture(scope="module")
def plan(tiny_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    return build(lowered(tiny_graph, folder, Precision.FP16), Precision.FP16).engine


@pytest.mark.parametrize(
    ("precision", "work", "statement"),
    [
        (
            Precision.FP32,
            {"f32": 1.0},
            "all 10 convolutions are typed FLOAT in the parsed network; input input float32, output logits float32",
        ),
        (
            Precision.FP16,
            {"f16": 1.0},
            "all 10 convolutions are typed HALF in the parsed network; input input float32, output logits float32",
        ),
        (
            Precision.INT8,
            {"int8": 1.0},
            "all 10 convolutions are typed HALF in the parsed network, with 10 quantize layers at their inputs; input"
            " input float32, output logits float32; that INT8 kernels are chosen is unproven",
        ),
    ],
)
def test_builds_a_real_plan_without_a_gpu(
    tiny_graph: Path, tmp_path: Path, precision: Precision, work: dict[str, float], statement: str
) -> None:
    compiled = build(lowered(tiny_graph, tmp_path, precision), precision)
    assert compiled.proof is not None
    assert compiled.proof.source == "parsed network"
    assert compiled.proof.conv_work == work
    assert compiled.proof.reformats is None
    assert compiled.proof.statement == statement
    assert len(compiled.engine.read_bytes()) > 10_000
    assert compiled.engine.name == "engine.plan"
    assert not (tmp_path / "timing.cache").exists()  # TensorRT for RTX times nothing when it builds


def test_work_is_shared_as_the_census_counts_it(tiny_graph: Path, tmp_path: Path) -> None:
    """Some convolutions are kept in float: the parsed network and the graph must agree on what they weigh."""
    model = model_from_path(tiny_graph)
    kept = [str(node.outputs[0].name) for node in model.graph if node.op_type == "Conv"][::2]
    ranges = {name: Range(lo=-5, hi=5) for name in quantization_points(model)}
    apply((InsertQdq(table(ranges), kept=kept), *passes_for(Precision.INT8, RTX)), model)
    save_model(model, tmp_path / "lowered.onnx")
    census = census_from_model(model).conv_macs_by_precision
    assert 0.1 < census["int8"] < 0.9
    compiled = build(tmp_path / "lowered.onnx", Precision.INT8)
    assert compiled.proof is not None
    assert compiled.proof.conv_work == pytest.approx(census)


def test_int8_needs_both_operands(tmp_path: Path) -> None:
    body = "q = QuantizeLinear(input, s, z) d = DequantizeLinear(q, s, z) logits = Conv<kernel_shape=[1,1]>(d, w)"
    constants = {"s": np.array(0.5, np.float32), "z": np.array(0, np.int8), "w": random(6, 4, 1, 1)}
    save_model(model_from_text(body, constants, out="[batch, 6, 8, 8]"), tmp_path / "model.onnx")
    with Worker("parsing", env=TensorRT().environment(RTX)) as worker:
        assert worker.call(work_of, tmp_path / "model.onnx") == {"f32": 1.0}


def work_of(graph: Path) -> dict[str, float]:
    """In a worker."""
    from polygraphy.backend import trt as backend

    _, network, _parser = backend.network_from_onnx_path(str(graph), strongly_typed=True)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    return _conv_work(importlib.import_module("tensorrt_rtx"), layers)


def test_a_plan_that_takes_pixels_says_so(tiny_graph: Path, tmp_path: Path) -> None:
    compiled = build(lowered(tiny_graph, tmp_path, Precision.FP16, pixels=True), Precision.FP16)
    assert compiled.proof is not None
    assert "input input uint8, output logits float32" in compiled.proof.statement


def test_the_builder_heeds_its_limits(tiny_graph: Path, tmp_path: Path) -> None:
    """With a megabyte to work in it finds no kernel, so the limit and the level do reach it."""
    graph = lowered(tiny_graph, tmp_path, Precision.FP32)
    with pytest.raises(BuildFailed, match=r"refuses lowered.onnx: .*; give more workspace_mb, or leave it out"):
        build(graph, Precision.FP32, EngineOptions(workspace_mb=1))
    assert build(graph, Precision.FP32, EngineOptions(workspace_mb=64, optimization_level=0)).engine.is_file()


def test_the_settings_are_those_that_were_asked_for(tiny_graph: Path, tmp_path: Path) -> None:
    """Those of TensorRT too, whose builder is nowhere without a GPU: the bindings of RTX know the same names.

    The level of hardware compatibility they take and drop without a word, which is why it is refused for RTX.
    """
    graph = lowered(tiny_graph, tmp_path, Precision.FP32)
    portable = EngineOptions(workspace_mb=64, optimization_level=4, hardware_compatibility="ampere+", version_compatible=True)  # fmt: skip
    with Worker("asking", env=TensorRT().environment(RTX)) as worker:
        rtx = worker.call(settings_of, graph, RTX, EngineOptions(workspace_mb=64, optimization_level=4))
        plain = worker.call(settings_of, graph, TENSORRT, EngineOptions())
        tensorrt = worker.call(settings_of, graph, TENSORRT, portable)
    common = {"tf32": False, "verbosity": "DETAILED", "level": 4, "workspace": 64_000_000}
    assert rtx == common | {"capabilities": 2, "version_compatible": False}
    assert tensorrt == common | {"capabilities": 0, "version_compatible": True}
    assert (plain["tf32"], plain["verbosity"], plain["version_compatible"]) == (False, "DETAILED", False)
    assert plain["workspace"] > 64_000_000


def settings_of(graph: Path, target: Target, engine: EngineOptions) -> dict[str, Any]:
    """In a worker: what the builder's configuration says of itself."""
    trt, config = configuration(graph, target, engine)
    return {
        "tf32": config.get_flag(trt.BuilderFlag.TF32),
        "verbosity": config.profiling_verbosity.name,
        "level": config.builder_optimization_level,
        "workspace": config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE),
        "capabilities": config.num_compute_capabilities,
        "version_compatible": config.get_flag(trt.BuilderFlag.VERSION_COMPATIBLE),
    }


def configuration(graph: Path, target: Target, engine: EngineOptions) -> tuple[Any, Any]:
    from polygraphy.backend import trt as backend

    trt = importlib.import_module("tensorrt_rtx")
    builder, network, _ = backend.network_from_onnx_path(str(graph), strongly_typed=True)
    return trt, _config(trt, backend, builder, network, target, BuildOptions(Profile(), Precision.FP32, engine))


def test_a_real_configuration_takes_and_gives_a_timing_cache(tiny_graph: Path, tmp_path: Path) -> None:
    """That of RTX, which keeps nothing in it but takes the same calls."""
    graph = lowered(tiny_graph, tmp_path, Precision.FP32)
    (tmp_path / "damaged.cache").write_bytes(b"damaged")
    with Worker("timing", env=TensorRT().environment(RTX)) as worker:
        for name in ("new.cache", "damaged.cache"):
            worker.call(time_nothing, graph, tmp_path / name)
            assert len((tmp_path / name).read_bytes()) > 50


def time_nothing(graph: Path, path: Path) -> None:
    """In a worker."""
    _, config = configuration(graph, RTX, EngineOptions())
    with _timing_cache(config, path):
        pass


def test_an_fp32_graph_is_not_taken_for_fp16(tiny_graph: Path, tmp_path: Path) -> None:
    """The failure that users report most: a strongly typed builder makes an FP32 engine of it without a word."""
    graph = Path(shutil.copy(tiny_graph, tmp_path))
    with pytest.raises(BuildFailed, match="10 of 10 convolutions of the parsed network are not HALF"):
        build(graph, Precision.FP16)
    assert not (tmp_path / "engine.plan").exists()


def test_an_unquantized_graph_is_not_taken_for_int8(tiny_graph: Path, tmp_path: Path) -> None:
    graph = lowered(tiny_graph, tmp_path, Precision.FP16)
    with pytest.raises(BuildFailed, match="the parsed network has no quantize layer"):
        build(graph, Precision.INT8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(hardware_compatibility="ampere+"), r"hardware_compatibility 'ampere\+' is not an option of tensorrt-rtx"),
        (EngineOptions(version_compatible=True), "version_compatible is not an option of tensorrt-rtx"),
    ],
)  # fmt: skip
def test_an_option_that_rtx_does_not_have_is_refused(tmp_path: Path, options: EngineOptions, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(tmp_path / "none.onnx", Precision.FP16, options)


def test_a_level_that_came_later_is_refused_by_an_older_library() -> None:
    trt = importlib.import_module("tensorrt_rtx")
    assert _hardware_level(trt, "none") is None
    assert _hardware_level(trt, "ampere+") is trt.HardwareCompatibilityLevel.AMPERE_PLUS
    assert _hardware_level(trt, "same-compute-capability") is trt.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    older = SimpleNamespace(HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS=1), __version__="10.3.0")
    with pytest.raises(
        UsageError, match=r"'same-compute-capability' is not an option of TensorRT 10\.3\.0; use 'ampere"
    ):
        _hardware_level(older, "same-compute-capability")


def test_a_capability_that_it_does_not_build_for_is_named(tiny_graph: Path, tmp_path: Path) -> None:
    graph = lowered(tiny_graph, tmp_path, Precision.FP16)
    with pytest.raises(TargetUnavailable, match="does not build for sm87; it builds for sm"):
        build(graph, Precision.FP16, target=Target.parse("tensorrt-rtx:sm87"))


def test_a_broken_graph_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"not a graph")
    with pytest.raises(BuildFailed, match=r"tensorrt-rtx:sm86\+sm89 refuses broken.onnx"):
        build(tmp_path / "broken.onnx", Precision.FP16)


def test_a_header_is_judged_before_the_plan_is_loaded(plan: Path, tmp_path: Path) -> None:
    """The library's own check; without a GPU it knows damage, and of a whole header that it may load."""
    content = plan.read_bytes()
    judged = {"empty": b"", "header cut": content[:40], "TensorRT's": b"ftrt" + bytes(200), "body cut": content[:5000]}
    reasons = {}
    for name, part in judged.items():
        (tmp_path / "engine.plan").write_bytes(part)
        reasons[name] = TensorRT().judges(tmp_path / "engine.plan")
    assert reasons["empty"] == "the file is empty"
    assert reasons["header cut"] == "the file is damaged"
    assert reasons["TensorRT's"] is None
    if not gpu_names():
        assert reasons["body cut"] is None
        assert reason_against(plan) is None


@pytest.mark.skipif(bool(gpu_names()), reason="an NVIDIA GPU is here")
def test_a_plan_that_does_not_load_says_why_in_the_library_s_words(plan: Path) -> None:
    with pytest.raises(BuildFailed, match=r"tensorrt_rtx 1\.\S+ does not load .*engine.plan: .*[Cc]uda") as caught:
        loaded_engine(importlib.import_module("tensorrt_rtx"), plan)
    assert caught.value.remedy == "build it on this machine with 'dnexport compile'"


@pytest.mark.skipif(bool(gpu_names()), reason="an NVIDIA GPU is here")
def test_running_needs_a_gpu(plan: Path, tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match="cannot run here: no NVIDIA GPU is here; copy the bundle"):
        TensorRT().load(plan, RTX, SessionOptions(Execution.F16, 1))
    with pytest.raises(TargetUnavailable, match="target tensorrt cannot be built here"):
        TensorRT().compile(tmp_path / "g.onnx", tmp_path, TENSORRT, BuildOptions(Profile(), Precision.FP16))


def test_what_running_needs_beside_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(TensorRT(), Runtime)
    there = "dnexport.runtimes.tensorrt.{}".format
    monkeypatch.setattr(there("gpu_names"), lambda: ["a GPU"])
    monkeypatch.setattr(there("gpu_capabilities"), lambda: ["sm90"])
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert TensorRT().runs(RTX).reason == "cuda-bindings is not installed"
    monkeypatch.setattr(there("cuda_availability"), lambda: TensorRT().builds(RTX))  # usable
    refused = TensorRT().runs(RTX)
    assert (refused.usable, refused.reason) == (False, "the plan is for sm86, sm89, and the GPU here is sm90")
    assert TensorRT().runs(Target.parse("tensorrt-rtx:sm90")).usable
    assert TensorRT().runs(Target.parse("tensorrt-rtx")).usable  # its header says more, on the device


def test_a_driver_is_asked_for_its_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\ncase "$1" in *compute_cap) printf "8.6\\n12.0\\n[N/A]\\n";; *) echo "Some GPU"; esac\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu_names() == ["Some GPU"]
    assert gpu_capabilities() == ["sm86", "sm120"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpu_names() == []


class TimingConfig:
    """A builder's configuration as far as its timing cache goes; that of `tensorrt` is nowhere without a GPU."""

    def __init__(self, *, mismatch: bool = False) -> None:
        self.held: list[bytes] = []
        self.mismatch = mismatch

    def create_timing_cache(self, content: bytes) -> bytes | None:
        return None if content.startswith(b"damaged") else content or b"none"

    def set_timing_cache(self, cache: bytes, *, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if self.mismatch and cache != b"none":
            return False
        self.held = [cache]
        return True

    def get_timing_cache(self) -> "TimingConfig | None":
        return self if self.held else None

    def serialize(self) -> bytes:
        return b"+".join(self.held)


@pytest.mark.parametrize(
    ("before", "mismatch", "after"),
    [(None, False, b"none+timed"), (b"known", False, b"known+timed"), (b"damaged", False, b"none+timed"), (b"known", True, b"none+timed")],
)  # fmt: skip
def test_timed_kernels_are_kept(tmp_path: Path, before: bytes | None, mismatch: bool, after: bytes) -> None:
    path = tmp_path / "made" / "timing.cache"
    if before is not None:
        path.parent.mkdir()
        path.write_bytes(before)
    config = TimingConfig(mismatch=mismatch)
    with _timing_cache(config, path):
        config.held.append(b"timed")
    assert path.read_bytes() == after


def test_timed_kernels_are_kept_by_a_build_that_fails(tmp_path: Path) -> None:
    config = TimingConfig()

    def fail() -> None:
        with _timing_cache(config, tmp_path / "timing.cache"):
            config.held.append(b"timed")
            raise BuildFailed("half way")

    with pytest.raises(BuildFailed, match="half way"):
        fail()
    assert (tmp_path / "timing.cache").read_bytes() == b"none+timed"
    with _timing_cache(config, None):
        pass


TAKEN = Tensor("input", "float32", (1, 3, 16, 16), (8, 3, 16, 16))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((9, 3, 16, 16), np.float32), r"takes float32 \[batch, channels, height, width\] of 3×16×16, batch 1 to 8, and got a batch of 9; split"),
        (np.zeros((0, 3, 16, 16), np.float32), "got a batch of 0"),
        (np.zeros((1, 3, 16, 16), np.float64), r"got float64 \[1, 3, 16, 16\]; give images as the bundle's preprocess"),
        (np.zeros((1, 16, 16, 3), np.float32), r"got float32 \[1, 16, 16, 3\]"),
        (np.zeros((3, 16, 16), np.float32), r"got float32 \[3, 16, 16\]"),
    ],
)  # fmt: skip
def test_images_that_a_plan_does_not_take_are_refused(images: np.ndarray, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        check_images(images, TAKEN)


def test_images_within_the_profile_are_taken() -> None:
    check_images(np.zeros((1, 3, 16, 16), np.float32), TAKEN)
    check_images(np.zeros((8, 3, 16, 16), np.float32), TAKEN)
    pixels = Tensor("input", "uint8", (4, 16, 16, 3), (4, 16, 16, 3))
    check_images(np.zeros((4, 16, 16, 3), np.uint8), pixels)
    with pytest.raises(
        BadInput, match=r"takes uint8 \[batch, height, width, channels\] of 16×16×3, batch 4, and got a batch of 1"
    ):
        check_images(np.zeros((1, 16, 16, 3), np.uint8), pixels)


def test_the_profile_of_a_plan_bounds_its_input() -> None:
    profile = [(1, 3, 16, 16), (2, 3, 16, 16), (8, 3, 16, 16)]
    assert tensor_from_profile("input", "FLOAT", (-1, 3, 16, 16), profile) == TAKEN
    assert TAKEN.nbytes == 8 * 3 * 16 * 16 * 4
    assert tensor_from_profile("input", "UINT8", (4, 16, 16, 3), []).least == (4, 16, 16, 3)
    with pytest.raises(BuildFailed, match="the plan's tensor 'input' is FP8, which is none of FLOAT"):
        tensor_from_profile("input", "FP8", (1,), [])
