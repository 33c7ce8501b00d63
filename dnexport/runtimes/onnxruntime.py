"""ONNX Runtime: its own CPU provider and the CUDA provider.

The engine is the lowered graph itself. What is executed is read off the kernels in the runtime's own profile, never off
what was asked: each kernel tells the types and the shapes of what it read.
"""

import importlib.util
import json
import math
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnexport.data.images import Fed
from dnexport.errors import BuildFailed, TargetUnavailable, UsageError
from dnexport.runtimes.arrays import Logits, available_threads, check_fed
from dnexport.runtimes.contract import (
    Availability,
    BuildOptions,
    Compiled,
    Executed,
    KernelTime,
    SessionOptions,
    broken,
)
from dnexport.runtimes.gpu import gpu_names
from dnexport.runtimes.kernel_profile import PROFILED, WARM_UP, Kernel, executed_from_kernels, times_from_queries
from dnexport.spec.precision import Execution, Precision, asked_execution
from dnexport.spec.preprocess import InputType
from dnexport.spec.target import Target

if TYPE_CHECKING:
    import onnxruntime

_LEAVE_QDQ = "session.disable_quant_qdq"
_TYPES = {"int8": "int8", "uint8": "int8", "float16": "f16", "float": "f32"}
_QUANTIZING = ("QuantizeLinear", "DequantizeLinear")
_REFORMATS = ("ReorderInput", "ReorderOutput", "Cast", *_QUANTIZING)
_KERNEL = "_kernel_time"


class OnnxRuntime:
    """Adapter for ``onnxruntime:cpu`` and ``onnxruntime:cuda``."""

    engine_file = "model.onnx"
    concurrent = True

    def builds(self, target: Target) -> Availability:
        """As `runs`: an engine of ONNX Runtime is checked by loading it."""
        return self.runs(target)

    def runs(self, target: Target) -> Availability:
        """Whether the package, and the provider in it, is here."""
        if importlib.util.find_spec("onnxruntime") is None:
            return Availability(False, "onnxruntime is not installed", "pip install 'dnexport[cpu]'")
        try:
            import onnxruntime

            version = f"onnxruntime {onnxruntime.__version__}"
            providers = onnxruntime.get_available_providers()
        except Exception as exc:  # a broken installation can raise anything
            return broken("onnxruntime", exc)
        if target.device == "cuda" and not gpu_names():
            return Availability(False, "no NVIDIA GPU is here", "copy the bundle to the machine with the GPU")
        if target.device == "cuda":
            usable = "CUDAExecutionProvider" in providers
            reason = version if usable else f"{version} has no CUDA provider"
            return Availability(
                usable, reason, "" if usable else "pip install 'dnexport[gpu]' in an environment of its own"
            )
        return Availability(True, version)

    def execution(self, precision: Precision, target: Target, allowed: Sequence[str] = ()) -> Execution:
        """What was asked for on CUDA; f32 on a CPU, where the Q/DQ of dnexport's graphs are simulated in float."""
        del allowed
        if target.device == "cuda":
            return asked_execution(precision, target.device)
        return Execution.F32

    def packages(self, target: Target) -> tuple[str, ...]:
        """ONNX Runtime's package for the device."""
        return ("onnxruntime-gpu" if target.device == "cuda" else "onnxruntime",)

    def environment(self, target: Target) -> dict[str, str]:
        """None needed."""
        del target
        return {}

    def compile(self, graph: Path, folder: Path, target: Target, options: BuildOptions) -> Compiled:
        """Take the graph as the engine, once it has been loaded and has run at the smallest and the largest batch."""
        engine = folder / self.engine_file
        if graph != engine:
            shutil.copyfile(graph, engine)
        session = self.load(engine, target, SessionOptions(self.execution(options.precision, target), 1))
        for batch in sorted({options.profile.min_batch, options.profile.max_batch}):
            session(session.zeros(batch))
        return Compiled(engine)

    def judges(self, engine: Path) -> None:
        """Nothing is known before it is loaded."""

    def load(self, engine: Path, target: Target, options: SessionOptions) -> "OnnxRuntimeSession":
        """Open a graph on the target's provider.

        Raises:
            TargetUnavailable: the provider is not here.
            UsageError: streams, which ONNX Runtime does not have.
            BuildFailed: the provider refuses the graph or does not take it.
        """
        availability = self.runs(target)
        if not availability.usable:
            raise TargetUnavailable(f"target {target} cannot run here: {availability.reason}", availability.remedy)
        if options.streams > 1:
            what = f"{target} has no streams: the queries of several threads run beside each other anyway"
            raise UsageError(what, "leave streams out")
        return OnnxRuntimeSession(engine, target, options)


class OnnxRuntimeSession:
    """A graph loaded by one execution provider."""

    def __init__(self, engine: Path, target: Target, options: SessionOptions) -> None:
        self._engine, self._target, self._options = engine, target, options
        self._session = _inference_session(engine, target, options, profile_to=None)
        taken_by = self._session.get_providers()[0]
        wanted = _provider(target)
        if taken_by != wanted:
            raise BuildFailed(f"{engine} was to run on {wanted} but {taken_by} took it", "see 'dnexport doctor'")
        (taken,) = self._session.get_inputs()
        self._input = taken.name
        self._shape = tuple(int(dim) for dim in taken.shape[1:])
        self._type: InputType = "uint8" if taken.type == "tensor(uint8)" else "float32"
        self._outputs = [output.name for output in self._session.get_outputs()]

    @property
    def input_type(self) -> InputType:
        """What it takes."""
        return self._type

    def __call__(self, images: Fed) -> Logits:
        """Run one batch.

        Raises:
            BadInput: another type or shape than the engine takes.
        """
        self._check(images)
        logits: Logits = self._session.run(self._outputs[:1], {self._input: images})[0]
        return logits

    def values(self, images: Fed) -> dict[str, np.ndarray]:
        """Run one batch; every output by name."""
        self._check(images)
        return dict(zip(self._outputs, self._session.run(self._outputs, {self._input: images}), strict=True))

    def executed(self, macs: Mapping[str, int]) -> Executed:
        """The types of the convolution kernels that one profiled query ran."""
        events = self._profiled(self.zeros(1), 1)
        kernels = [kernel for event in events if (kernel := _kernel(event))]
        quantized = any(event.get("args", {}).get("op_name") in _QUANTIZING for event in events)
        return executed_from_kernels(kernels, macs, f"{self._target} of {self._engine}", quantized=quantized)

    def phases(self) -> None:
        """Not told by this runtime."""

    def kernel_times(self, images: Fed) -> tuple[KernelTime, ...] | None:
        """Of a second session, which profiles; None on CUDA, where ONNX Runtime times the launch of a kernel."""
        if self._target.device == "cuda":
            return None
        self._check(images)
        return times_from_events(self._profiled(images, WARM_UP + PROFILED))

    def _profiled(self, images: Fed, queries: int) -> list[dict[str, Any]]:
        """The events of a session's first queries."""
        with tempfile.TemporaryDirectory() as folder:
            session = _inference_session(self._engine, self._target, self._options, profile_to=Path(folder) / "profile")
            for _ in range(queries):
                session.run(None, {self._input: images})
            events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
        return events

    def close(self) -> None:
        """Nothing is held beside memory."""

    def zeros(self, batch: int) -> Fed:
        """A batch of its input's shape and type."""
        return np.zeros((batch, *self._shape), self._type)

    def _check(self, images: Fed) -> None:
        check_fed(images, self._type, self._shape, str(self._target))


def float_session(model: Path | bytes) -> "onnxruntime.InferenceSession":
    """A graph on ONNX Runtime's own CPU provider, threads not spinning: for comparing and for calibrating graphs.

    Q/DQ stay as they are written: ONNX Runtime 1.31 would restate the float biases of quantized convolutions as int32
    with the scale s_x·s_w, which underflows in FP16 and gives a wrong result without a message.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = available_threads()
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    settings.add_session_config_entry(_LEAVE_QDQ, "1")
    return onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])


def _inference_session(
    engine: Path, target: Target, options: SessionOptions, *, profile_to: Path | None
) -> "onnxruntime.InferenceSession":
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    settings.intra_op_num_threads = options.threads
    if profile_to is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile_to)
    providers: list[Any] = [_provider(target)]
    if target.device == "cuda":
        settings.add_session_config_entry(_LEAVE_QDQ, "1")  # as in `float_session`: its body is FP16
        providers = [("CUDAExecutionProvider", {"use_tf32": "0"})]
    try:
        return onnxruntime.InferenceSession(engine, settings, providers=providers)
    except Exception as exc:  # the exception classes of ONNX Runtime share no other base
        first_line = str(exc).strip().splitlines()[0]
        raise BuildFailed(f"{target} refuses {engine}: {first_line}", "see 'dnexport doctor' for its version") from exc


def _provider(target: Target) -> str:
    return f"{target.device.upper()}ExecutionProvider"


def _kernel(event: Mapping[str, Any]) -> Kernel | None:
    """A kernel of ONNX Runtime's profile; None for what does not matter here."""
    args = event.get("args", {})
    operator, read = args.get("op_name", ""), args.get("input_type_shape")
    if not read:
        return None
    kind = next(iter(read[0]))
    name, kind = event["name"].removesuffix(_KERNEL), _TYPES.get(kind, kind)
    if operator in _REFORMATS:
        return Kernel(name, "reformat", kind)
    if "Conv" not in operator:
        return None
    shapes = [next(iter(each.values())) for each in read[1:]]
    weight: list[int] = next((shape for shape in shapes if len(shape) == 4), [])
    output = next(iter(args["output_type_shape"][0].values()))
    # A quantized convolution has its weight packed away, and may write channels last.
    macs = math.prod(weight) * math.prod(output[2:]) if weight else None
    return Kernel(name, "convolution", kind, macs)


def times_from_events(events: Iterable[Mapping[str, Any]]) -> tuple[KernelTime, ...]:
    """The median of each kernel over the queries of a profile, `WARM_UP` queries first, in the order of the last one.

    Args:
        events: of ONNX Runtime's profile; ``dur`` is a kernel's time in one query, in microseconds.
    """
    queries: list[list[tuple[str, float]]] = []
    for event in sorted(events, key=lambda event: (event["ts"], event["name"] != "model_run")):
        if event["name"] == "model_run":
            queries.append([])
        elif queries and event["name"].endswith(_KERNEL):
            queries[-1].append((event["name"].removesuffix(_KERNEL), event["dur"] / 1e3))
    return times_from_queries(queries)
