"""OpenVINO by its own package: what is said of it, what it executes, and for which batches it compiles."""

import functools
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.data.images import input_from_pixels
from dnexport.errors import BadInput, BuildFailed, TargetUnavailable
from dnexport.graph.contract import apply, model_from_path, save_model
from dnexport.graph.fold_batchnorm import FoldBatchNorm
from dnexport.graph.insert_qdq import InsertQdq
from dnexport.graph.passes_for import passes_for
from dnexport.measure.accuracy import snr_db
from dnexport.models.export import graph_logits
from dnexport.runtimes import openvino as adapter
from dnexport.runtimes.contract import BuildOptions, SessionOptions
from dnexport.runtimes.openvino import OpenVino, OpenVinoSession
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.profile import Profile
from dnexport.spec.target import Target
from tests.graph.test_insert_qdq import table_of_all
from tests.needs import needs
from tests.networks import TINY_PREPROCESS, tiny_pixels

CPU, GPU = Target.parse("openvino:cpu"), Target.parse("openvino:gpu")
pytestmark = pytest.mark.instructions


def images(count: int = 6) -> np.ndarray:
    return input_from_pixels(tiny_pixels(count, seed=5), TINY_PREPROCESS)


def opened(graph: Path, execution: Execution = Execution.F32, **options: object) -> OpenVinoSession:
    return OpenVino().load(graph, CPU, SessionOptions(execution, 2, **options))


@pytest.fixture(scope="module")
def int8_graph(tiny_graph: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small network with ranges wide enough for any image, lowered for OpenVINO."""
    model = model_from_path(tiny_graph)
    apply((FoldBatchNorm(), InsertQdq(table_of_all(model))), model)
    apply(passes_for(Precision.INT8, CPU), model)
    path = tmp_path_factory.mktemp("int8") / "model.onnx"
    save_model(model, path)
    return path


@needs("openvino:cpu")
def test_fp32_is_executed_as_f32(tiny_graph: Path, tmp_path: Path) -> None:
    compiled = OpenVino().compile(tiny_graph, tmp_path, CPU, BuildOptions(Profile(), Precision.FP32))
    session = opened(compiled.engine)
    snr = snr_db(graph_logits(tiny_graph, images()), session(images()))
    assert snr is None or snr > 90
    executed = session.executed({})
    assert executed.execution is Execution.F32
    assert executed.proof.conv_work == {"f32": 1.0}
    assert "types of the" in executed.proof.statement


@needs("openvino:cpu")
@pytest.mark.parametrize("precision", list(Precision))
def test_what_is_offered_is_read_back_from_the_kernels(
    precision: Precision, tiny_graph: Path, int8_graph: Path
) -> None:
    offered = OpenVino().execution(precision, CPU)
    session = opened(int8_graph if precision is Precision.INT8 else tiny_graph, offered)
    assert session.executed({}).execution is offered


def test_what_a_processor_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """x86 with and without bfloat16, ARM with float16, and processors whose int8 saturates."""

    def processor(*capabilities: str, machine: str = "x86_64", saturates: bool = False) -> None:
        monkeypatch.setattr(adapter, "_capabilities", lambda: frozenset({"FP32", *capabilities}))
        monkeypatch.setattr(adapter, "_saturates", lambda: saturates)
        monkeypatch.setattr("platform.machine", lambda: machine)

    half, eight = (functools.partial(OpenVino().execution, p, CPU) for p in (Precision.FP16, Precision.INT8))
    processor("BF16", "INT8", "FP16")
    assert half() is half(["bf16"]) is Execution.BF16
    assert half(["f32"]) is Execution.F32, "what was allowed where the bundle was built is what a device keeps to"
    assert eight() is eight(["f32"]) is Execution.INT8_F32
    assert eight(["f32", "bf16"]) is Execution.INT8_BF16
    processor("INT8")
    assert half() is half(["bf16"]) is Execution.F32
    assert eight(["bf16"]) is Execution.INT8_F32
    processor("INT8", saturates=True)
    assert eight() is eight(["bf16"]) is Execution.INT8_SATURATING_F32
    processor("FP16", "BF16", "INT8", machine="aarch64")
    assert half() is half(["f32"]) is Execution.F16
    assert eight() is Execution.INT8_F32
    assert OpenVino().execution(Precision.FP32, CPU) is Execution.F32
    on_gpu = [OpenVino().execution(precision, GPU) for precision in Precision]
    assert on_gpu == [Execution.F32, Execution.F16, Execution.INT8_F16]


SATURATES = "from dnexport.runtimes import openvino; print(openvino._saturates())"


@needs("openvino:cpu")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo")
def test_saturation_is_what_the_instructions_say() -> None:
    """The largest codes through a convolution, against the flags of the processor; in processes of their own."""
    flags = set(Path("/proc/cpuinfo").read_text().split())
    if not flags & {"avx2", "asimd"}:
        pytest.skip("needs vnni: neither AVX2 nor ARM's instructions")
    dot_products = bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8", "asimd"})

    def saturates(**env: str) -> bool:
        command = [sys.executable, "-c", SATURATES]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout == "True\n"

    assert saturates() == (not dot_products)
    if "avx2" in flags:
        assert saturates(ONEDNN_MAX_CPU_ISA="AVX2"), "as on any x86 that has no VNNI"


@needs("openvino:cpu")
def test_int8_that_saturates_says_so(int8_graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for saturates, execution in ((True, Execution.INT8_SATURATING_F32), (False, Execution.INT8_F32)):
        monkeypatch.setattr(adapter, "_saturates", lambda saturates=saturates: saturates)
        executed = opened(int8_graph).executed({})
        assert executed.execution is execution
        assert ("saturate" in executed.proof.statement) == saturates


@needs("openvino:cpu")
def test_each_batch_size_is_compiled_once_and_the_fifth_shares_a_symbolic_one(
    tiny_graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    original = OpenVinoSession.compiled

    def counted(self: OpenVinoSession, batch: int, *, profiled: bool = False) -> object:
        compiled.append(batch)
        return original(self, batch, profiled=profiled)

    monkeypatch.setattr(OpenVinoSession, "compiled", counted)
    session = opened(tiny_graph, batch=2)
    assert compiled == [2], "when it opens, for the size that it was told of"
    expected = graph_logits(tiny_graph, images(6))
    for batch in (2, 1, 3, 2, 4, 1, 5, 6, 5):
        np.testing.assert_allclose(session(images(6)[:batch]), expected[:batch], atol=1e-4)
    assert compiled == [2, 1, 3, 4, -1]


@needs("openvino:cpu")
def test_threads_share_a_session_and_each_gets_its_own_answer(tiny_graph: Path) -> None:
    session, expected, found = opened(tiny_graph, streams=2), graph_logits(tiny_graph, images(6)), {}

    def ask(index: int) -> None:
        for _ in range(20):
            found[index] = session(images(6)[index : index + 1 + index % 2])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, logits in found.items():
        np.testing.assert_allclose(logits, expected[index : index + 1 + index % 2], atol=1e-4)


@needs("openvino:cpu")
def test_a_fixed_batch_is_taken_as_it_is(tiny_graph: Path, tmp_path: Path) -> None:
    model = model_from_path(tiny_graph)
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.shape = ir.Shape([4, *value.shape[1:]])
    save_model(model, tmp_path / "model.onnx")
    np.testing.assert_allclose(
        opened(tmp_path / "model.onnx")(images(4)), graph_logits(tiny_graph, images(4)), atol=1e-4
    )


@needs("openvino:cpu")
def test_what_it_does_not_take_is_named(tiny_graph: Path, tmp_path: Path) -> None:
    with pytest.raises(
        BadInput, match=r"openvino:cpu takes float32 \[batch, 3, 16, 16\] and got float32 \[1, 3, 8, 8\]"
    ):
        opened(tiny_graph)(np.zeros((1, 3, 8, 8), np.float32))
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BuildFailed, match=r"openvino:cpu refuses .*model\.onnx: .*; see 'dnexport doctor'"):
        opened(tmp_path / "model.onnx")


@needs("openvino:cpu")
def test_the_probe_says_the_same_each_time() -> None:
    assert OpenVino().runs(CPU) == OpenVino().runs(CPU)
    assert OpenVino().runs(CPU).usable


@needs("openvino:cpu")
def test_a_device_that_is_not_here_is_refused(tiny_graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "_core", lambda: type("Core", (), {"available_devices": ["CPU"]}))
    with pytest.raises(TargetUnavailable, match=r"target openvino:gpu cannot run here: OpenVINO .* finds no GPU here"):
        OpenVino().load(tiny_graph, GPU, SessionOptions(Execution.F16, 1))


def test_what_is_not_installed_or_broken_is_a_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> object:
        raise ImportError("libopenvino.so: cannot open shared object file")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(adapter, "_core", fail)
    found = OpenVino().runs(CPU)
    assert found.reason == "openvino is installed but does not load: libopenvino.so: cannot open shared object file"
    assert found.remedy == "pip install --force-reinstall openvino"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert OpenVino().runs(CPU).reason == "openvino is not installed"


@needs("openvino:cpu")
def test_it_is_imported_without_its_telemetry() -> None:
    """OpenVINO's package reports each import where the package of its telemetry is installed."""
    program = (
        "import sys, types\n"
        "spy = types.ModuleType('openvino_telemetry')\n"
        "spy.Telemetry = lambda *_, **__: sys.exit('reported')\n"
        "sys.modules['openvino_telemetry'] = spy\n"
        "from dnexport.runtimes.openvino import _core\n"
        "_core()\n"
        "assert sys.modules['openvino_telemetry'] is spy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@needs("openvino:cpu")
def test_kernel_times_are_of_later_queries(tiny_graph: Path) -> None:
    """OpenVINO tells means over all queries; what the first ones took is subtracted."""
    times = opened(tiny_graph).kernel_times(images(4))
    assert 0 < sum(each.ms for each in times) < 100
    named = {name for each in times for name in each.names}
    assert {node.name for node in model_from_path(tiny_graph).graph if node.op_type == "Conv"} <= named
