"""CUDA's runtime library, as far as a session needs it: a stream, events, memory on both sides, graphs.

Every call goes through `Cuda.call`, so that no error code is lost. What is allocated is held and given back by
`Cuda.close`, last first.
"""

import contextlib
import ctypes
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dnexport.errors import BuildFailed
from dnexport.runtimes.contract import Availability, broken

_BINDINGS = "cuda.bindings.runtime"


def cuda_availability() -> Availability:
    """Whether cuda-bindings is here and loads; a GPU it needs only when it is called."""
    try:
        importlib.import_module(_BINDINGS)
    except ModuleNotFoundError:
        return Availability(False, "cuda-bindings is not installed", "pip install cuda-bindings")
    except Exception as exc:  # a broken installation can raise anything
        return broken("cuda-bindings", exc)
    return Availability(True, "cuda-bindings is installed")


def cuda_library() -> Any:
    """The bindings, whose functions return a tuple: an error code, then what CUDA gives."""
    return importlib.import_module(_BINDINGS)


@dataclass(frozen=True)
class Buffer:
    """One tensor's memory, as large on the host as on the device.

    Attributes:
        host: pinned, bytes: only from such memory does a copy run beside the processor.
        device: address on the device.
    """

    host: np.ndarray
    device: int

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """A view of the host's side."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        return self.host[:nbytes].view(dtype).reshape(shape)


class Cuda:
    """Checked calls, and what was allocated by them.

    Args:
        library: `cuda_library()`, or what stands for it in tests.
    """

    def __init__(self, library: Any) -> None:
        self._library = library
        self._held = contextlib.ExitStack()

    def call(self, name: str, *args: Any) -> Any:
        """Call a function of the library by its name; what it gives, or None.

        Raises:
            BuildFailed: CUDA returns an error; one of memory is named as such.
        """
        error, *given = getattr(self._library, name)(*args)
        if int(error):
            raise _failure(name, error)
        return given[0] if given else None

    def stream(self) -> Any:
        """A stream of its own; the default one would wait for every other."""
        stream = self.call("cudaStreamCreateWithFlags", self._library.cudaStreamNonBlocking)
        self._held.callback(self.call, "cudaStreamDestroy", stream)
        return stream

    def event(self) -> Any:
        """A mark in a stream that remembers its time."""
        event = self.call("cudaEventCreate")
        self._held.callback(self.call, "cudaEventDestroy", event)
        return event

    def elapsed_ms(self, start: Any, end: Any) -> float:
        """Milliseconds between two events that the stream has passed."""
        return float(self.call("cudaEventElapsedTime", start, end))

    def buffer(self, nbytes: int) -> Buffer:
        """Memory for one tensor.

        Raises:
            BuildFailed: there is not enough, on the host or on the device.
        """
        address = int(self.call("cudaMallocHost", nbytes))
        self._held.callback(self.call, "cudaFreeHost", address)
        device = int(self.call("cudaMalloc", nbytes))
        self._held.callback(self.call, "cudaFree", device)
        return Buffer(np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address)), device)

    def upload(self, buffer: Buffer, nbytes: int, stream: Any) -> None:
        """Start copying the first bytes to the device."""
        kind = self._library.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", buffer.device, buffer.host.ctypes.data, nbytes, kind, stream)

    def download(self, buffer: Buffer, nbytes: int, stream: Any) -> None:
        """Start copying the first bytes to the host."""
        kind = self._library.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", buffer.host.ctypes.data, buffer.device, nbytes, kind, stream)

    def captured(self, stream: Any, launch: Callable[[], bool]) -> Any:
        """What ``launch`` puts into the stream, as one graph; None where it cannot be captured.

        Nothing runs meanwhile. The caller gives the graph back with `drop_graph`.

        Raises:
            BuildFailed: CUDA does not begin to capture, or cannot make the graph ready.
        """
        mode = self._library.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self.call("cudaStreamBeginCapture", stream, mode)
        launched = False
        try:
            launched = launch()
        finally:
            # A stream must not stay in capture. A forbidden call in between makes ending it an error, no defect.
            error, graph = self._library.cudaStreamEndCapture(stream)
        if int(error) or not launched:
            if graph is not None and int(graph):
                self.call("cudaGraphDestroy", graph)
            self._library.cudaGetLastError()
            return None
        ready = self.call("cudaGraphInstantiate", graph, 0)
        self.call("cudaGraphDestroy", graph)
        return ready

    def drop_graph(self, graph: Any) -> None:
        """Give a graph back."""
        self.call("cudaGraphExecDestroy", graph)

    def close(self) -> None:
        """Give everything back, last first; the second call does nothing."""
        self._held.close()


def _failure(name: str, error: Any) -> BuildFailed:
    word = getattr(error, "name", str(error))
    if word == "cudaErrorMemoryAllocation":
        return BuildFailed(
            f"the GPU is out of memory ({name}: {word})",
            "build for a smaller batch, or end what else runs on the GPU",
        )
    return BuildFailed(f"{name} failed: {word}", "see 'dnexport doctor' for the driver and the GPU")
