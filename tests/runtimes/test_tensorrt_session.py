"""The session's bookkeeping: which context, which graph, which memory, in which order.

No GPU is here, so the library and CUDA are stood for by small ones that compute on the host (`test_cuda.FakeCudart`).
That the real libraries have what is called is checked against `tensorrt_rtx` itself; what they do is for `tests/gpu`.
"""

import ctypes
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dnexport.errors import BadInput, BuildFailed
from dnexport.runtimes.contract import Session, SessionOptions
from dnexport.runtimes.cuda import Cuda
from dnexport.runtimes.tensorrt_session import RUNTIME_CACHE, TensorRTSession
from dnexport.spec.precision import Execution
from tests.runtimes.test_cuda import Error, FakeCudart

PIXELS = (2, 4, 4)


class Context:
    """Computes the sum of each image's planes; a twin of the real one's methods that a session calls."""

    def __init__(self, library: FakeCudart) -> None:
        self.library, self.addresses, self.batch = library, {}, 0
        self.allowed, self.profiler = True, None

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.batch = shape[0]
        return name == "input" and shape[1:] == PIXELS

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return {"logits": (self.batch, 2), "mask": (self.batch,)}[name]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def is_stream_capturable(self, stream: int) -> bool:
        return self.allowed

    def execute_async_v3(self, stream: int) -> bool:
        batch = self.batch  # a graph keeps the shapes that it was captured with
        self.library.launch(lambda: self._compute(batch))
        if self.profiler is not None:
            for layer in ("conv + relu", "PWN(norm)"):
                self.profiler.report_layer_time(layer, 0.25 * batch)
        return True

    def _compute(self, batch: int) -> None:
        def at(name: str, shape: tuple[int, ...], kind: Any) -> np.ndarray:
            count = int(np.prod(shape))
            return np.ctypeslib.as_array((kind * count).from_address(self.addresses[name])).reshape(shape)

        sums = at("input", (batch, *PIXELS), ctypes.c_float).sum(axis=(2, 3))
        at("logits", (batch, 2), ctypes.c_float)[...] = sums
        at("mask", (batch,), ctypes.c_int32)[...] = sums.argmax(axis=1)


class Cache:
    def __init__(self) -> None:
        self.content = b"empty"

    def deserialize(self, content: bytes) -> bool:
        if content.startswith(b"kernels"):
            self.content = content
        return content.startswith(b"kernels")

    def serialize(self) -> bytes:
        return b"kernels of " + self.content


class Configuration:
    cuda_graph_strategy = dynamic_shapes_kernel_specialization_strategy = cache = None

    def create_runtime_cache(self) -> Cache:
        return Cache()

    def set_runtime_cache(self, cache: Cache) -> bool:
        self.cache = cache
        return True


class Engine:
    num_io_tensors = 3
    tensors = ("input", "logits", "mask")

    def __init__(self, library: FakeCudart) -> None:
        self.library, self.contexts, self.most_contexts = library, [], 99
        self.configuration = Configuration()

    def get_tensor_name(self, index: int) -> str:
        return self.tensors[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "input" else "out"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, *PIXELS)

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(1, *PIXELS), (1, *PIXELS), (6, *PIXELS)]

    def get_tensor_dtype(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(name="INT32" if name == "mask" else "FLOAT")

    def create_runtime_config(self) -> Configuration:
        return self.configuration

    def create_execution_context(self, configuration: Configuration | None = None) -> Context | None:
        if len(self.contexts) == self.most_contexts:
            return None
        self.contexts.append(Context(self.library))
        return self.contexts[-1]

    def create_engine_inspector(self) -> SimpleNamespace:
        layer = {"Name": "conv + relu", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Half"}]}
        return SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": [layer]}))


class Profiler:
    """In the place of ``IProfiler``, whose __init__ a subclass must call."""


class Logger:
    Severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1)


def library_of(engine: Engine | None, name: str = "tensorrt", *, wants_host_code: bool = False) -> Any:
    class Runtime:
        engine_host_code_allowed = False

        def __init__(self, logger: Any) -> None:
            self.logger = logger
            library.runtimes.append(self)

        def deserialize_cuda_engine(self, plan: bytes) -> Engine | None:
            if wants_host_code and not self.engine_host_code_allowed:
                text = (
                    "Cannot deserialize engine with lean runtime since IRuntime::getEngineHostCodeAllowed() is false."
                )
                self.logger.log(1, text)
                return None
            if engine is None:
                self.logger.log(2, "a warning")
                self.logger.log(1, "Version tag does not match")
            return engine

    library = SimpleNamespace(
        __name__=name,
        __version__="10.3",
        ILogger=Logger,
        IProfiler=Profiler,
        Runtime=Runtime,
        runtimes=[],
        TensorIOMode=SimpleNamespace(INPUT="in"),
        LayerInformationFormat=SimpleNamespace(JSON="json"),
        CudaGraphStrategy=SimpleNamespace(DISABLED="off", WHOLE_GRAPH_CAPTURE="whole"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager"),
    )
    return library


@pytest.fixture
def cudart() -> FakeCudart:
    return FakeCudart()


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    (tmp_path / "engine.plan").write_bytes(b"plan")
    return tmp_path / "engine.plan"


def options(cache: Path | None = None, *, cuda_graph: bool = True) -> SessionOptions:
    return SessionOptions(Execution.F16, 1, cache=cache, cuda_graph=cuda_graph)


def images(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(batch, *PIXELS)).astype(np.float32)


def test_a_batch_goes_through_and_every_output_comes_back(cudart: FakeCudart, plan: Path) -> None:
    session = TensorRTSession(library_of(Engine(cudart)), plan, options(), Cuda(cudart))
    assert isinstance(session, Session)
    assert session.input_type == "float32"
    assert session.phases() is None
    first = session(images(3))
    np.testing.assert_allclose(first, images(3).sum(axis=(2, 3)), rtol=1e-6)
    values = session.values(images(3, seed=1))
    assert list(values) == ["logits", "mask"]
    assert values["mask"].tolist() == values["logits"].argmax(axis=1).tolist()
    np.testing.assert_allclose(first, images(3).sum(axis=(2, 3)), rtol=1e-6)  # a copy, not the pinned memory
    phases = session.phases()
    assert phases is not None
    assert (phases.h2d_ms, phases.compute_ms, phases.d2h_ms) == (1.5, 1.5, 1.5)
    assert phases.enqueue_ms > 0
    assert session.executed({"conv": 9}).proof.conv_work == {"f16": 1.0}


def test_a_graph_is_captured_at_the_second_query_of_a_batch_size(cudart: FakeCudart, plan: Path) -> None:
    engine = Engine(cudart)
    session = TensorRTSession(library_of(engine), plan, options(), Cuda(cudart))
    for seed in range(3):
        for batch in (2, 5):
            np.testing.assert_allclose(session(images(batch, seed)), images(batch, seed).sum(axis=(2, 3)), rtol=1e-5)
    assert cudart.calls.count("cudaStreamBeginCapture") == 2
    assert cudart.calls.count("cudaGraphLaunch") == 4
    assert len(engine.contexts) == 3  # one of the largest batch, and one for each graph


def test_contexts_are_few_and_the_one_unused_for_longest_is_set_anew(cudart: FakeCudart, plan: Path) -> None:
    engine = Engine(cudart)
    session = TensorRTSession(library_of(engine), plan, options(), Cuda(cudart))
    for batch in (1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 1, 1):
        np.testing.assert_allclose(session(images(batch)), images(batch).sum(axis=(2, 3)), rtol=1e-5)
    assert len(engine.contexts) == 4
    captured = cudart.calls.count("cudaStreamBeginCapture")
    for batch in (6, 6, 2, 2, 3, 3, 4, 4, 6, 5, 6, 6):  # 6 was used after 2, whose place 5 takes
        session(images(batch))
    assert cudart.calls.count("cudaStreamBeginCapture") == captured + 4
    session.close()
    assert not cudart.open
    assert not cudart.memory


def test_where_memory_suffices_for_one_context_it_serves_all_batch_sizes(cudart: FakeCudart, plan: Path) -> None:
    engine = Engine(cudart)
    engine.most_contexts = 1
    session = TensorRTSession(library_of(engine), plan, options(), Cuda(cudart))
    for batch in (1, 1, 6, 6, 2):
        np.testing.assert_allclose(session(images(batch)), images(batch).sum(axis=(2, 3)), rtol=1e-5)
    engine.most_contexts = len(engine.contexts)
    with pytest.raises(
        BuildFailed, match="gives no context: most likely the GPU is out of memory; build for a smaller"
    ):
        TensorRTSession(library_of(engine), plan, options(), Cuda(cudart))


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_layers_are_timed_one_by_one_in_a_context_that_is_dropped(cudart: FakeCudart, plan: Path, name: str) -> None:
    engine = Engine(cudart)
    session = TensorRTSession(library_of(engine, name), plan, options(), Cuda(cudart))
    session(images(2)), session(images(2))
    captured = cudart.calls.count("cudaStreamBeginCapture")
    strategies = []
    create = engine.create_execution_context
    engine.create_execution_context = lambda *a: (
        strategies.append(engine.configuration.cuda_graph_strategy) or create(*a)
    )
    assert session.kernel_times(images(2)) == ((("conv", "relu"), 0.5), (("norm",), 0.5))
    assert cudart.calls.count("cudaStreamBeginCapture") == captured
    profiled = engine.contexts[-1]
    np.testing.assert_allclose(session(images(2)), images(2).sum(axis=(2, 3)), rtol=1e-6)
    assert engine.contexts[-1] is not profiled
    assert strategies == (["off", "whole"] if name == "tensorrt_rtx" else [None, None])
    with pytest.raises(BadInput, match="batch 1 to 6"):
        session.kernel_times(images(7))


@pytest.mark.parametrize("how", ["not asked for", "not capturable", "invalidated"])
def test_without_a_graph_kernels_are_launched_one_by_one(cudart: FakeCudart, plan: Path, how: str) -> None:
    engine = Engine(cudart)
    session = TensorRTSession(library_of(engine), plan, options(cuda_graph=how != "not asked for"), Cuda(cudart))
    if how == "not capturable":
        engine.contexts[0].allowed = False
    if how == "invalidated":
        cudart.fails["cudaStreamEndCapture"] = Error.cudaErrorStreamCaptureInvalidated
    for seed in range(3):
        np.testing.assert_allclose(session(images(6, seed)), images(6, seed).sum(axis=(2, 3)), rtol=1e-5)
    assert "cudaGraphLaunch" not in cudart.calls
    assert cudart.calls.count("cudaStreamBeginCapture") == (1 if how == "invalidated" else 0)  # not again


def test_images_outside_of_the_profile_never_reach_the_gpu(cudart: FakeCudart, plan: Path) -> None:
    session = TensorRTSession(library_of(Engine(cudart)), plan, options(), Cuda(cudart))
    with pytest.raises(BadInput, match="batch 1 to 6, and got a batch of 7"):
        session(images(7))
    assert "cudaMemcpyAsync" not in cudart.calls


def test_closing_gives_everything_back_and_twice_is_once(cudart: FakeCudart, plan: Path) -> None:
    session = TensorRTSession(library_of(Engine(cudart)), plan, options(), Cuda(cudart))
    session(images(2)), session(images(2))
    session.close()
    assert not cudart.open
    assert not cudart.memory
    session.close()


def test_what_fails_on_the_way_leaves_nothing_behind(cudart: FakeCudart, plan: Path) -> None:
    cudart.fails["cudaEventCreate"] = Error.cudaErrorInsufficientDriver
    with pytest.raises(BuildFailed, match="cudaEventCreate failed: cudaErrorInsufficientDriver"):
        TensorRTSession(library_of(Engine(cudart)), plan, options(), Cuda(cudart))
    assert not cudart.memory


def test_rtx_captures_by_itself_and_keeps_what_it_compiled(cudart: FakeCudart, plan: Path, tmp_path: Path) -> None:
    for expected in (b"kernels of empty", b"kernels of kernels of empty"):
        engine = Engine(cudart)
        session = TensorRTSession(library_of(engine, "tensorrt_rtx"), plan, options(tmp_path / "kept"), Cuda(cudart))
        assert engine.configuration.cuda_graph_strategy == "whole"
        assert engine.configuration.dynamic_shapes_kernel_specialization_strategy == "eager"
        assert session(images(2)).shape == (2, 2)
        assert session(images(2)).shape == (2, 2)
        session.close()
        assert (tmp_path / "kept" / RUNTIME_CACHE).read_bytes() == expected
    assert "cudaStreamBeginCapture" not in cudart.calls
    (tmp_path / "kept" / RUNTIME_CACHE).write_bytes(b"damaged")
    TensorRTSession(library_of(Engine(cudart), "tensorrt_rtx"), plan, options(tmp_path / "kept"), Cuda(cudart)).close()
    assert (tmp_path / "kept" / RUNTIME_CACHE).read_bytes() == b"kernels of empty"


def test_a_place_that_cannot_be_written_does_not_fail_the_session(
    cudart: FakeCudart, plan: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    off = options(tmp_path / "file", cuda_graph=False)
    engine = Engine(cudart)
    TensorRTSession(library_of(engine, "tensorrt_rtx"), plan, off, Cuda(cudart)).close()
    assert engine.configuration.cuda_graph_strategy == "off"
    assert not cudart.memory


def test_only_a_plan_that_needs_it_may_bring_host_code(cudart: FakeCudart, plan: Path) -> None:
    plain = library_of(Engine(cudart))
    TensorRTSession(plain, plan, options(), Cuda(cudart)).close()
    assert not plain.runtimes[0].engine_host_code_allowed
    compatible = library_of(Engine(cudart), wants_host_code=True)
    TensorRTSession(compatible, plan, options(), Cuda(cudart)).close()
    assert compatible.runtimes[0].engine_host_code_allowed


def test_a_plan_that_does_not_load_is_refused_with_the_library_s_reason(cudart: FakeCudart, plan: Path) -> None:
    with pytest.raises(
        BuildFailed, match=r"tensorrt 10\.3 does not load .*engine.plan: Version tag does not match; build it"
    ):
        TensorRTSession(library_of(None), plan, options(), Cuda(cudart))


def test_the_real_library_has_what_a_session_calls() -> None:
    import tensorrt_rtx as trt

    called: dict[Any, str] = {
        trt.Runtime: "deserialize_cuda_engine engine_host_code_allowed engine_header_size get_engine_validity",
        trt.ICudaEngine: "num_io_tensors get_tensor_name get_tensor_mode get_tensor_shape get_tensor_profile_shape"
        " get_tensor_dtype create_runtime_config create_execution_context create_engine_inspector",
        trt.IExecutionContext: "set_input_shape get_tensor_shape set_tensor_address execute_async_v3"
        " is_stream_capturable profiler enqueue_emits_profile",
        trt.IProfiler: "report_layer_time",
        trt.IRuntimeConfig: "cuda_graph_strategy dynamic_shapes_kernel_specialization_strategy create_runtime_cache"
        " set_runtime_cache",
        trt.IRuntimeCache: "serialize deserialize",
        trt.EngineInspector: "execution_context get_engine_information",
        trt.TensorIOMode: "INPUT",
        trt.LayerInformationFormat: "JSON",
        trt.CudaGraphStrategy: "DISABLED WHOLE_GRAPH_CAPTURE",
        trt.DynamicShapesKernelSpecializationStrategy: "EAGER",
        trt.ILogger.Severity: "INTERNAL_ERROR ERROR",
        trt.EngineValidity: "INVALID",
    }
    missing = [
        f"{owner.__name__}.{name}"
        for owner, names in called.items()
        for name in names.split()
        if not hasattr(owner, name)
    ]
    assert not missing
