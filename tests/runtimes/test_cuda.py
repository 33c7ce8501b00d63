import ctypes
import importlib
import re
import sys
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dnexport.errors import BuildFailed
from dnexport.runtimes.cuda import Cuda, cuda_availability

RUNTIMES = Path(__file__).parents[2] / "dnexport" / "runtimes"


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorStreamCaptureInvalidated = 901


class FakeCudart:
    """What `Cuda` calls, over the host's memory: copies are real, work is done when it is launched, events tick."""

    cudaStreamNonBlocking = 1
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="thread")

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.fails: dict[str, Error] = {}
        self.memory: dict[int, Any] = {}
        self.open: list[int] = []
        self.clock = 0.0
        self.capturing: list[Callable[[], None]] | None = None
        self.graphs: dict[int, list[Callable[[], None]]] = {}

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        if not (name.startswith("cuda") and callable(value)):
            return value

        def call(*args: Any) -> tuple[Any, ...]:
            self.calls.append(name)
            given = value(*args)
            if name in self.fails:
                return (self.fails[name], *[None for _ in given])
            return (Error.cudaSuccess, *given)

        return call

    def launch(self, work: Callable[[], None]) -> None:
        """What a library does with its kernels: into the capture, or at once."""
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def _handle(self) -> int:
        self.open.append(len(self.calls))
        return len(self.calls)

    def _allocate(self, nbytes: int) -> tuple[int]:
        block = ctypes.create_string_buffer(nbytes)
        self.memory[ctypes.addressof(block)] = block
        return (ctypes.addressof(block),)

    def _free(self, address: int) -> tuple[()]:
        del self.memory[address]
        return ()

    def _release(self, handle: int) -> tuple[()]:
        self.open.remove(handle)
        return ()

    cudaMallocHost = cudaMalloc = _allocate
    cudaFreeHost = cudaFree = _free
    cudaStreamDestroy = cudaEventDestroy = cudaGraphDestroy = cudaGraphExecDestroy = _release

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int]:
        assert flags == self.cudaStreamNonBlocking
        return (self._handle(),)

    def cudaEventCreate(self) -> tuple[list[float]]:
        event: Any = Event()
        self.open.append(event)
        return (event,)

    def cudaEventRecord(self, event: "Event", stream: int) -> tuple[()]:
        assert self.capturing is None
        self.clock += 1.5
        event.at = self.clock
        return ()

    def cudaEventElapsedTime(self, start: "Event", end: "Event") -> tuple[float]:
        return (end.at - start.at,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[()]:
        return ()

    def cudaGetLastError(self) -> tuple[()]:
        return ()

    def cudaMemcpyAsync(self, to: int, source: int, nbytes: int, kind: str, stream: int) -> tuple[()]:
        ctypes.memmove(to, source, nbytes)
        return ()

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> tuple[()]:
        assert mode == "thread"
        self.capturing = []
        return ()

    def cudaStreamEndCapture(self, stream: int) -> tuple[int]:
        handle = self._handle()
        assert self.capturing is not None
        self.graphs[handle], self.capturing = self.capturing, None
        return (handle,)

    def cudaGraphInstantiate(self, graph: int, flags: int) -> tuple[int]:
        ready = self._handle()
        self.graphs[ready] = self.graphs[graph]
        return (ready,)

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[()]:
        assert graph in self.open
        for work in self.graphs[graph]:
            work()
        return ()


class Event:
    at = 0.0


@pytest.fixture
def library() -> FakeCudart:
    return FakeCudart()


def test_an_error_names_the_call_and_what_cuda_says(library: FakeCudart) -> None:
    library.fails["cudaStreamSynchronize"] = Error.cudaErrorInsufficientDriver
    with pytest.raises(BuildFailed, match="cudaStreamSynchronize failed: cudaErrorInsufficientDriver; see 'dnexport"):
        Cuda(library).call("cudaStreamSynchronize", 1)


def test_no_memory_is_said_to_be_that(library: FakeCudart) -> None:
    library.fails["cudaMalloc"] = Error.cudaErrorMemoryAllocation
    cuda = Cuda(library)
    with pytest.raises(BuildFailed, match=r"the GPU is out of memory \(cudaMalloc: .*; build for a smaller batch"):
        cuda.buffer(64)
    cuda.close()
    assert library.calls[-1] == "cudaFreeHost"  # the half that there was


def test_bytes_go_to_the_device_and_back(library: FakeCudart) -> None:
    cuda = Cuda(library)
    there, back, stream = cuda.buffer(24), cuda.buffer(24), cuda.stream()
    there.array((2, 3), np.dtype("float32"))[...] = [[1, 2, 3], [4, 5, 6]]
    cuda.upload(there, 24, stream)
    ctypes.memmove(back.device, there.device, 24)
    cuda.download(back, 12, stream)
    assert back.array((3,), np.dtype("float32")).tolist() == [1, 2, 3]
    assert not back.host[12:].any()


def test_events_measure_milliseconds(library: FakeCudart) -> None:
    cuda = Cuda(library)
    start, end = cuda.event(), cuda.event()
    cuda.call("cudaEventRecord", start, 1)
    cuda.call("cudaEventRecord", end, 1)
    assert cuda.elapsed_ms(start, end) == 1.5


def test_closing_gives_everything_back_once(library: FakeCudart) -> None:
    cuda = Cuda(library)
    cuda.stream(), cuda.event(), cuda.buffer(8)
    cuda.close()
    assert not library.open
    assert not library.memory
    assert library.calls[-4:] == ["cudaFree", "cudaFreeHost", "cudaEventDestroy", "cudaStreamDestroy"]
    count = len(library.calls)
    cuda.close()
    assert len(library.calls) == count


def test_what_is_captured_runs_when_it_is_launched(library: FakeCudart) -> None:
    cuda, ran = Cuda(library), []

    def launch() -> bool:
        library.launch(lambda: ran.append(1))
        return True

    graph = cuda.captured(1, launch)
    assert not ran
    cuda.call("cudaGraphLaunch", graph, 1)
    cuda.call("cudaGraphLaunch", graph, 1)
    assert ran == [1, 1]
    cuda.drop_graph(graph)
    assert not library.open


@pytest.mark.parametrize("how", ["refused", "invalidated"])
def test_what_cannot_be_captured_is_none(library: FakeCudart, how: str) -> None:
    if how == "invalidated":
        library.fails["cudaStreamEndCapture"] = Error.cudaErrorStreamCaptureInvalidated
    assert Cuda(library).captured(1, lambda: how != "refused") is None
    assert library.capturing is None
    assert library.calls[-1] == "cudaGetLastError"  # or the next call would report it again


def test_a_launch_that_fails_ends_the_capture(library: FakeCudart) -> None:
    def launch() -> bool:
        raise BuildFailed("no")

    with pytest.raises(BuildFailed, match="no"):
        Cuda(library).captured(1, launch)
    assert library.capturing is None


def test_missing_bindings_are_a_diagnosis(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    found = cuda_availability()
    assert (found.usable, found.reason) == (False, "cuda-bindings is not installed")
    assert found.remedy == "pip install cuda-bindings"

    def broken(name: str) -> None:
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(importlib, "import_module", broken)
    assert cuda_availability().reason.startswith("cuda-bindings is installed but does not load: libcudart.so.13")


def test_every_name_that_is_used_exists_in_the_real_bindings() -> None:
    if not cuda_availability().usable:
        pytest.skip("cuda-bindings is not installed")
    from cuda.bindings import runtime

    source = (RUNTIMES / "cuda.py").read_text() + (RUNTIMES / "tensorrt_session.py").read_text()
    names = set(re.findall(r"\bcuda[A-Z]\w*", source))
    assert len(names) > 20
    enumerations = (runtime.cudaMemcpyKind, runtime.cudaStreamCaptureMode, runtime.cudaError_t)
    known = {*dir(runtime), *(name for each in enumerations for name in each.__members__)}
    assert names <= known, names - known
