"""OpenVINO by its own package: CPUs of Intel, AMD and ARM; Intel's GPUs and NPUs by the same code.

The engine is the lowered graph itself, and OpenVINO compiles it when a session opens. A CPU chooses its own arithmetic,
so a session hints at the float type that it wants, and what was executed is read off the kernels, never off the hint.

Models of a fixed batch size run faster than those of a symbolic one (docs/results.md has the ratios), so a session
compiles one model for each batch size that it is asked for, at its first use, and keeps it. From the fifth size on the
sizes share one model with a symbolic batch: each compiled model has a copy of the weights.
"""

import contextlib
import functools
import importlib
import importlib.util
import platform
import shutil
import sys
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnexport.data.images import Fed
from dnexport.errors import BuildFailed, TargetUnavailable
from dnexport.runtimes.arrays import Logits, check_fed
from dnexport.runtimes.contract import (
    Availability,
    BuildOptions,
    Compiled,
    Executed,
    KernelTime,
    SessionOptions,
    broken,
)
from dnexport.runtimes.kernel_profile import PROFILED, WARM_UP, Kernel, Role, executed_from_kernels
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.preprocess import InputType
from dnexport.spec.target import Target

if TYPE_CHECKING:
    import openvino

_REMEDY = "pip install openvino"
_TELEMETRY = "openvino_telemetry"
_FIXED_SIZES = 4
# Suffixes of the names that OpenVINO gives its kernels: "brgconv_avx512_amx_i8", "I8" where activations are unsigned.
_TYPES = {"i8": "int8", "u8": "int8", "bf16": "bf16", "f16": "f16", "f32": "f32"}
_ROLES: dict[str, Role] = {
    "Convolution": "convolution",
    "GroupConvolution": "convolution",
    "Concat": "body",
    "FullyConnected": "body",
    "Reorder": "reformat",
}


class OpenVino:
    """Adapter for ``openvino:cpu``, ``openvino:gpu`` and ``openvino:npu``."""

    engine_file = "model.onnx"
    concurrent = True

    def builds(self, target: Target) -> Availability:
        """As `runs`: an engine is checked by loading it."""
        return self.runs(target)

    def runs(self, target: Target) -> Availability:
        """Whether the package is here, and finds the target's device."""
        if importlib.util.find_spec("openvino") is None:
            return Availability(False, "openvino is not installed", _REMEDY)
        try:
            core = _core()
            device = target.device.upper()
            if not any(name.partition(".")[0] == device for name in core.available_devices):
                what = f"OpenVINO {_version()} finds no {device} here"
                return Availability(False, what, "copy the bundle to the machine that has it")
            return Availability(True, f"OpenVINO {_version()} on {core.get_property(device, 'FULL_DEVICE_NAME')}")
        except Exception as exc:  # a broken installation can raise anything
            return broken("openvino", exc)

    def execution(self, precision: Precision, target: Target, allowed: Sequence[str] = ()) -> Execution:
        """FP16 is f16 on GPUs, NPUs and ARM's CPUs; on x86 bf16 where the CPU has it and nothing else is asked for.

        The body of INT8 is f32 on a CPU, or bf16 where that is allowed and the CPU has it. INT8 saturates on a CPU
        whose int8 products are added in 16 bits.
        """
        if target.device != "cpu":
            return {Precision.INT8: Execution.INT8_F16, Precision.FP32: Execution.F32}.get(precision, Execution.F16)
        capabilities = _capabilities()
        has_bf16 = "BF16" in capabilities
        if precision is Precision.INT8:
            if _saturates():
                return Execution.INT8_SATURATING_F32
            return Execution.INT8_BF16 if has_bf16 and Execution.BF16.value in allowed else Execution.INT8_F32
        if precision is Precision.FP32:
            return Execution.F32
        # x86 processors that have both are faster in bf16; ARM's have float16 kernels, which is what was asked for.
        if "FP16" in capabilities and platform.machine() in ("aarch64", "arm64"):
            return Execution.F16
        may = not allowed or Execution.BF16.value in allowed
        return Execution.BF16 if has_bf16 and may else Execution.F32

    def packages(self, target: Target) -> tuple[str, ...]:
        """OpenVINO's only package."""
        del target
        return ("openvino",)

    def environment(self, target: Target) -> dict[str, str]:
        """None needed."""
        del target
        return {}

    def compile(self, graph: Path, folder: Path, target: Target, options: BuildOptions) -> Compiled:
        """Take the graph as the engine, once it has been compiled and has run at the smallest and the largest batch."""
        engine = folder / self.engine_file
        if graph != engine:
            shutil.copyfile(graph, engine)
        sizes = sorted({options.profile.min_batch, options.profile.max_batch})
        execution = self.execution(options.precision, target)
        session = self.load(engine, target, SessionOptions(execution, 1, batch=sizes[0]))
        for batch in sizes:
            session(session.zeros(batch))
        return Compiled(engine)

    def judges(self, engine: Path) -> None:
        """Nothing is known before it is loaded."""

    def load(self, engine: Path, target: Target, options: SessionOptions) -> "OpenVinoSession":
        """Open a graph and compile it for the batch size that the options name.

        Raises:
            TargetUnavailable: the package or the device is not here.
            BuildFailed: OpenVINO refuses the graph.
        """
        availability = self.runs(target)
        if not availability.usable:
            raise TargetUnavailable(f"target {target} cannot run here: {availability.reason}", availability.remedy)
        return OpenVinoSession(engine, target, options)


class OpenVinoSession:
    """A graph on one device, compiled for the batch sizes that it was asked for; threads may share it."""

    def __init__(self, engine: Path, target: Target, options: SessionOptions) -> None:
        self._engine, self._target, self._options = engine, target, options
        with self._refusals():
            self._model = _core().read_model(str(engine))
            (taken,) = self._model.inputs
            shape = taken.get_partial_shape()
        self._shape = tuple(int(dim.get_length()) for dim in list(shape)[1:])
        self._type: InputType = "uint8" if taken.get_element_type().to_dtype() == np.uint8 else "float32"
        self._outputs = [output.get_any_name() for output in self._model.outputs]
        self._fixed = shape[0].is_static
        self._compiled: dict[int, _Requests] = {}
        self._compiling = threading.Lock()
        self._requests(int(shape[0].get_length()) if self._fixed else options.batch)

    @property
    def input_type(self) -> InputType:
        """What it takes."""
        return self._type

    def __call__(self, images: Fed) -> Logits:
        """Run one batch.

        Raises:
            BadInput: another type or shape than the engine takes.
        """
        logits: Logits = self._run(images)[0]
        return logits

    def values(self, images: Fed) -> dict[str, np.ndarray]:
        """Run one batch; every output by name."""
        return dict(zip(self._outputs, self._run(images), strict=True))

    def executed(self, macs: Mapping[str, int]) -> Executed:
        """The types of the convolution kernels of one profiled query."""
        compiled = self.compiled(1, profiled=True)
        request = compiled.create_infer_request()
        request.infer([self.zeros(1)])
        profile = [told for told in request.profiling_info if _ran(told)]
        return executed_from_kernels(
            [kernel for told in profile if (kernel := _kernel(told))],
            macs,
            f"{self._target} of {self._engine}",
            quantized=any(told.node_type == "FakeQuantize" for told in profile),
            saturating=self._target.device == "cpu" and _saturates(),
        )

    def phases(self) -> None:
        """Not told by this runtime."""

    def kernel_times(self, images: Fed) -> tuple[KernelTime, ...]:
        """The mean of each kernel over several queries of a second session, which profiles.

        OpenVINO tells the mean over all queries so far, the slow first ones among them: what the first queries took is
        subtracted from the sum behind it.
        """
        check_fed(images, self._type, self._shape, str(self._target))
        compiled = self.compiled(len(images), profiled=True)
        request = compiled.create_infer_request()
        before = _total_ms(request, images, 0, WARM_UP)
        after = _total_ms(request, images, WARM_UP, PROFILED)
        names = _original_names(compiled)
        return tuple(
            KernelTime(names.get(name, (name,)), max(0.0, ms - before[name]) / PROFILED) for name, ms in after.items()
        )

    def close(self) -> None:
        """Give back the compiled models; the second call does nothing."""
        self._compiled.clear()

    def zeros(self, batch: int) -> Fed:
        """A batch of its input's shape and type."""
        return np.zeros((batch, *self._shape), self._type)

    def _run(self, images: Fed) -> list[np.ndarray]:
        check_fed(images, self._type, self._shape, str(self._target))
        return self._requests(len(images)).infer(images)

    def _requests(self, batch: int) -> "_Requests":
        """What answers queries of a batch size; compiled where none has been asked for yet."""
        found = self._compiled.get(batch)
        if found is not None:
            return found
        with self._compiling:
            key = batch if self._fixed or len(self._compiled) < _FIXED_SIZES or batch in self._compiled else -1
            if key not in self._compiled:
                self._compiled[key] = _Requests(self.compiled(key))
            return self._compiled[key]

    def compiled(self, batch: int, *, profiled: bool = False) -> "openvino.CompiledModel":
        """A further compiled model; of a symbolic batch where ``batch`` is -1."""
        config: dict[str, Any] = {"INFERENCE_PRECISION_HINT": self._options.execution.floats}
        if self._target.device == "cpu":
            config["INFERENCE_NUM_THREADS"] = self._options.threads
            config["NUM_STREAMS"] = self._options.streams
        if profiled:
            config["PERF_COUNT"] = True
        elif self._options.cache is not None:
            config["CACHE_DIR"] = str(self._options.cache)
        with self._refusals():
            model = self._model
            if not self._fixed:
                model = model.clone()
                model.reshape([batch, *self._shape])
            return _core().compile_model(model, self._target.device.upper(), config)

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except Exception as exc:  # OpenVINO raises RuntimeError and, from its bindings, others
            lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
            words = lines[-1] if lines else type(exc).__name__
            what = f"{self._target} refuses {self._engine}: {words}"
            raise BuildFailed(what, "see 'dnexport doctor' for its version") from exc


class _Requests:
    """A compiled model and its idle requests: each thread that queries takes one, and puts it back."""

    def __init__(self, compiled: "openvino.CompiledModel") -> None:
        self._compiled = compiled
        self._idle: deque[openvino.InferRequest] = deque()

    def infer(self, images: np.ndarray) -> list[np.ndarray]:
        """All outputs of one query."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        try:
            return list(request.infer([images], share_inputs=True).to_tuple())
        finally:
            self._idle.append(request)


def _openvino() -> Any:
    """The package, imported without its telemetry, which reports each import to a vendor's host."""
    if "openvino" not in sys.modules:
        held = sys.modules.get(_TELEMETRY)
        sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
        try:
            importlib.import_module("openvino")
        finally:
            if held is None:
                del sys.modules[_TELEMETRY]
            else:
                sys.modules[_TELEMETRY] = held
    return sys.modules["openvino"]


@functools.cache
def _core() -> Any:
    return _openvino().Core()


def _version() -> str:
    version: str = _openvino().__version__
    return version.partition("-")[0]


def _capabilities() -> frozenset[str]:
    """Of the CPU: ``FP32``, ``BF16``, ``FP16``, ``INT8``, as far as it has them."""
    return frozenset(_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@functools.cache
def _saturates() -> bool:
    """Whether int8 convolutions of unsigned activations saturate on this CPU; a convolution of the largest codes tells.

    Without VNNI x86 adds two products of 8 bits in 16: 2·255·127 becomes 32767, without a message.
    """
    openvino = _openvino()
    operators = importlib.import_module("openvino.opset13")
    channels, high = 64, np.float32(255)
    image = operators.parameter([1, channels, 1, 1], np.float32)
    codes = operators.fake_quantize(image, np.float32(0), high, np.float32(0), high, 256)
    largest = operators.constant(np.full((channels, channels, 1, 1), 127, np.int8))
    weight = operators.multiply(operators.convert(largest, np.float32), operators.constant(np.float32(1)))
    conv = operators.convolution(codes, weight, [1, 1], [0, 0], [0, 0], [1, 1])
    model = openvino.Model([operators.result(conv)], [image])
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    try:
        compiled = _core().compile_model(model, "CPU", config)
        found: np.ndarray = compiled([np.full((1, channels, 1, 1), high, np.float32)])[0]
    except RuntimeError:
        return False  # what cannot compute this refuses the engine too, by name
    return float(found.min()) < 0.99 * channels * 255 * 127


def _kernel(told: "openvino.ProfilingInfo") -> Kernel | None:
    """A kernel of OpenVINO's profile; None for a kind of node that does not matter here."""
    suffix = told.exec_type.rpartition("_")[2].lower()
    kind = _TYPES.get(suffix, told.exec_type)
    role = _ROLES.get(told.node_type)
    return Kernel(told.node_name, role, kind) if role else None


def _ran(told: "openvino.ProfilingInfo") -> bool:
    return bool(told.status == _openvino().ProfilingInfo.Status.EXECUTED)


def _total_ms(request: "openvino.InferRequest", images: Fed, before: int, queries: int) -> dict[str, float]:
    """Milliseconds of each kernel over all queries so far, ``before`` and ``queries`` more, in the order they run."""
    for _ in range(queries):
        request.infer([images])
    done = before + queries
    return {t.node_name: done * t.real_time.total_seconds() * 1e3 for t in request.profiling_info if _ran(t)}


def _original_names(compiled: "openvino.CompiledModel") -> dict[str, tuple[str, ...]]:
    """The names of the graph's nodes that each kernel computes, by the kernel's own name."""
    found = {}
    for node in compiled.get_runtime_model().get_ordered_ops():
        told = node.get_rt_info()["originalLayersNames"].astype(str)
        found[node.get_friendly_name()] = (node.get_friendly_name(), *filter(None, told.split(",")))
    return found
