"""ONNX Runtime: its own CPU provider, the CUDA provider, and OpenVINO as a plug-in execution provider.

The engine is the lowered graph itself. What is executed is read off the kernels (`kernel_profile`), never off what was
asked.
"""

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dnexport.data.images import Fed
from dnexport.errors import BadInput, BuildFailed, TargetUnavailable, UsageError
from dnexport.runtimes.arrays import Logits, available_threads
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
from dnexport.runtimes.kernel_profile import (
    PROFILED,
    WARM_UP,
    executed_from_kernels,
    openvino_kernel,
    openvino_times,
    own_kernel,
    own_times,
)
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.preprocess import InputType
from dnexport.spec.target import Target

if TYPE_CHECKING:
    import onnxruntime

_OPENVINO = "OpenVINOExecutionProvider"
_LEAVE_QDQ = "session.disable_quant_qdq"


class OnnxRuntime:
    """Adapter for ``onnxruntime:cpu``, ``onnxruntime:cuda`` and ``openvino:cpu``."""

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
        if target.runtime == "openvino":
            return _openvino_availability(version)
        return Availability(True, version)

    def execution(self, precision: Precision, target: Target, allowed: Sequence[str] = ()) -> Execution:
        """FP16 is f16 on CUDA, bf16 where OpenVINO and the CPU have it and nothing else is asked for, else f32.

        The body of INT8 is f16 on CUDA; on a CPU f32, or bf16 where that is allowed and OpenVINO and the CPU have it.
        """
        if target.device == "cuda":
            return {Precision.FP32: Execution.F32, Precision.FP16: Execution.F16, Precision.INT8: Execution.INT8_F16}[
                precision
            ]
        has_bf16 = target.runtime == "openvino" and "BF16" in _openvino_capabilities()
        if precision is Precision.INT8:
            return Execution.INT8_BF16 if has_bf16 and Execution.BF16.value in allowed else Execution.INT8_F32
        may = not allowed or Execution.BF16.value in allowed
        return Execution.BF16 if has_bf16 and may and precision is Precision.FP16 else Execution.F32

    def packages(self, target: Target) -> tuple[str, ...]:
        """ONNX Runtime, and OpenVINO's plug-in for it."""
        plugin = ("onnxruntime-ep-openvino",) if target.runtime == "openvino" else ()
        return ("onnxruntime-gpu" if target.device == "cuda" else "onnxruntime", *plugin)

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
            UsageError: streams, which only OpenVINO has.
            BuildFailed: the provider refuses the graph or does not take it.
        """
        availability = self.runs(target)
        if not availability.usable:
            raise TargetUnavailable(f"target {target} cannot run here: {availability.reason}", availability.remedy)
        if options.streams > 1 and target.runtime != "openvino":
            what = f"{target} has no streams: the queries of several threads run beside each other anyway"
            raise UsageError(what, "leave streams out")
        return OnnxRuntimeSession(engine, target, options)


class OnnxRuntimeSession:
    """A graph loaded by one execution provider."""

    def __init__(self, engine: Path, target: Target, options: SessionOptions) -> None:
        self._engine, self._target, self._options = engine, target, options
        self._session = _inference_session(engine, target, options, profile_to=None)
        taken_by = self._session.get_providers()[0]
        wanted = {"openvino": _OPENVINO, "cuda": "CUDAExecutionProvider"}.get(
            target.runtime if target.runtime == "openvino" else target.device, "CPUExecutionProvider"
        )
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
        describe = openvino_kernel if self._target.runtime == "openvino" else own_kernel
        kernels = [kernel for event in events if (kernel := describe(event))]
        return executed_from_kernels(kernels, macs, self._options.execution, f"{self._target} of {self._engine}")

    def phases(self) -> None:
        """Not told by this runtime."""

    def kernel_times(self, images: Fed) -> tuple[KernelTime, ...] | None:
        """Of a second session, which profiles; None on CUDA, where ONNX Runtime times the launch of a kernel."""
        if self._target.device == "cuda":
            return None
        self._check(images)
        events = self._profiled(images, WARM_UP + PROFILED)
        return (openvino_times if self._target.runtime == "openvino" else own_times)(events)

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
        if images.dtype != self._type or images.shape[1:] != self._shape:
            got = f"{images.dtype} {list(images.shape)}"
            raise BadInput(
                f"{self._target} takes {self._type} [batch, {', '.join(map(str, self._shape))}] and got {got}",
                "give images as the bundle's preprocess makes them; Bundle.session() does",
            )


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
    # Spinning threads of one engine would steal the processor from the next one measured.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if profile_to is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile_to)
    providers: list[Any] = [f"{target.device.upper()}ExecutionProvider"]
    if target.device == "cuda":
        settings.add_session_config_entry(_LEAVE_QDQ, "1")  # as in `float_session`: its body is FP16
        providers = [("CUDAExecutionProvider", {"use_tf32": "0"})]
    if target.runtime == "openvino":
        settings.add_provider_for_devices([_openvino_device()], _openvino_options(options, profile_to is not None))
        providers = []
    try:
        return onnxruntime.InferenceSession(engine, settings, **({"providers": providers} if providers else {}))
    except Exception as exc:  # the exception classes of ONNX Runtime share no other base
        first_line = str(exc).strip().splitlines()[0]
        raise BuildFailed(f"{target} refuses {engine}: {first_line}", "see 'dnexport doctor' for its version") from exc


def _openvino_options(options: SessionOptions, profiled: bool) -> dict[str, str]:
    config = {
        "INFERENCE_PRECISION_HINT": options.execution.floats,
        "INFERENCE_NUM_THREADS": str(options.threads),
        "NUM_STREAMS": str(options.streams),
    }
    if profiled:
        config["PERF_COUNT"] = "YES"
    elif options.cache is not None:
        config["CACHE_DIR"] = str(options.cache)
    return {"load_config": json.dumps({"CPU": config})}


def _openvino_device() -> "onnxruntime.OrtEpDevice":
    import onnxruntime
    import onnxruntime_ep_openvino

    if not any(device.ep_name == _OPENVINO for device in onnxruntime.get_ep_devices()):
        onnxruntime.register_execution_provider_library(_OPENVINO, onnxruntime_ep_openvino.get_library_path())
    devices = [
        d for d in onnxruntime.get_ep_devices() if d.ep_name == _OPENVINO and d.ep_metadata.get("ov_device") == "CPU"
    ]
    if not devices:
        raise TargetUnavailable("OpenVINO finds no CPU it supports", "use --target onnxruntime:cpu")
    return devices[0]


def _openvino_capabilities() -> frozenset[str]:
    return frozenset(_openvino_device().ep_metadata.get("OPTIMIZATION_CAPABILITIES", "").split())


def _openvino_availability(version: str) -> Availability:
    if importlib.util.find_spec("onnxruntime_ep_openvino") is None:
        return Availability(False, "onnxruntime-ep-openvino is not installed", "pip install onnxruntime-ep-openvino")
    try:
        device = _openvino_device()
    except TargetUnavailable as exc:
        return Availability(False, exc.message, exc.remedy)
    except Exception as exc:  # a plug-in of another ONNX Runtime version can raise anything
        return broken("onnxruntime-ep-openvino", exc)
    plugin = device.ep_metadata.get("version", "?").partition("+")[0]
    return Availability(
        True, f"{version}, OpenVINO plug-in {plugin}, {device.ep_metadata.get('FULL_DEVICE_NAME', 'CPU')}"
    )
