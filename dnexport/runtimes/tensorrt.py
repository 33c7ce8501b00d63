"""TensorRT and TensorRT for RTX: one adapter whose only variable is the module.

Polygraphy builds. It chooses between the two libraries by an environment variable that it reads at import, so a build
runs in a process that starts with it (`environment`). A build is told nothing about precision: the graph's types say
it, and what the parser understood of them is checked before anything is built. Running is `tensorrt_session`'s.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dnexport.errors import BuildFailed, TargetUnavailable, UsageError
from dnexport.runtimes.contract import Availability, BuildOptions, Compiled, Session, SessionOptions, broken
from dnexport.runtimes.cuda import Cuda, cuda_availability, cuda_library
from dnexport.runtimes.gpu import gpu_capabilities, gpu_names
from dnexport.runtimes.tensorrt_plan import ends_in_words, reason_against
from dnexport.runtimes.tensorrt_session import TensorRTSession
from dnexport.spec.engine import EngineOptions
from dnexport.spec.metrics import PrecisionProof
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.profile import Profile
from dnexport.spec.record import write_atomically
from dnexport.spec.target import Target

DEFAULT_RTX_CAPABILITIES = ("sm80", "sm86", "sm89", "sm120")

_HARDWARE = {"ampere+": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
_KINDS = {"FLOAT": "f32", "HALF": "f16", "BF16": "bf16"}
_MEGABYTE = 1_000_000


class TensorRT:
    """Adapter for ``tensorrt`` and ``tensorrt-rtx``."""

    engine_file = "engine.plan"
    concurrent = False

    def builds(self, target: Target) -> Availability:
        """TensorRT for RTX builds ahead of time without a GPU; TensorRT needs the GPU it builds for."""
        library = _library(target)
        if not library.usable:
            return library
        if importlib.util.find_spec("polygraphy") is None:
            return Availability(False, "polygraphy is not installed", "pip install polygraphy")
        if target.runtime == "tensorrt" and not gpu_names():
            return Availability(
                False,
                "no NVIDIA GPU is here, and TensorRT builds for the GPU it finds",
                "run 'dnexport build' on the machine with the GPU",
            )
        return library

    def runs(self, target: Target) -> Availability:
        """Running needs a GPU, one that the target names where it names any, the library and cuda-bindings."""
        if not gpu_names():
            return Availability(False, "no NVIDIA GPU is here", "copy the bundle to the machine with the GPU")
        for needed in (library := _library(target), cuda_availability()):
            if not needed.usable:
                return needed
        found = gpu_capabilities()
        if target.capabilities and not set(found) & set(target.capabilities):
            has = " and ".join(found) or "of unknown capability"
            named = ", ".join(target.capabilities)
            return Availability(False, f"the plan is for {named}, and the GPU here is {has}", "build for this GPU")
        return library

    def execution(self, precision: Precision, target: Target, allowed: Sequence[str] = ()) -> Execution:
        """What the typed graph says."""
        del target, allowed
        return {Precision.FP32: Execution.F32, Precision.FP16: Execution.F16, Precision.INT8: Execution.INT8_F16}[
            precision
        ]

    def packages(self, target: Target) -> tuple[str, ...]:
        """The library's package, and those that its files lie in: ``tensorrt_cu12_libs``."""
        found = (distribution.metadata["Name"] for distribution in importlib.metadata.distributions())
        names = {name.replace("_", "-").lower() for name in found if name}  # a damaged one has none
        rtx = target.runtime == "tensorrt-rtx"
        return tuple(sorted(n for n in names if n.startswith("tensorrt") and n.startswith("tensorrt-rtx") == rtx))

    def environment(self, target: Target) -> dict[str, str]:
        """Polygraphy's switch between the two libraries."""
        return {"POLYGRAPHY_USE_TENSORRT_RTX": "1" if target.runtime == "tensorrt-rtx" else "0"}

    def compile(self, graph: Path, folder: Path, target: Target, options: BuildOptions) -> Compiled:
        """Parse the lowered graph, check its types, build, and write the raw plan, which trtexec loads too.

        Raises:
            UsageError: an option that this library does not have.
            TargetUnavailable: the library is not here.
            BuildFailed: the parser or the builder refuses, or the parsed network is not of the precision asked for.
        """
        _refuse_options(target, options.engine)
        availability = self.builds(target)
        if not availability.usable:
            raise TargetUnavailable(f"target {target} cannot be built here: {availability.reason}", availability.remedy)
        from polygraphy.backend import trt as backend
        from polygraphy.exception import PolygraphyException

        trt = importlib.import_module(_module_name(target))
        try:
            builder, network, parser = backend.network_from_onnx_path(str(graph), strongly_typed=True)
            proof = _proof_from_network(trt, network, options.precision)
            config = _config(trt, backend, builder, network, target, options)
            # TensorRT for RTX times nothing when it builds: there such a cache does nothing.
            with _timing_cache(config, options.timing_cache if target.runtime == "tensorrt" else None):
                plan = backend.engine_bytes_from_network((builder, network, parser), config=config)
        except PolygraphyException as exc:
            first_line = str(exc).strip().splitlines()[0]
            look = "look at the graph with 'polygraphy inspect model'"
            limited = "give more workspace_mb, or leave it out"
            raise BuildFailed(
                f"{target} refuses {graph.name}: {first_line}", limited if options.engine.workspace_mb else look
            ) from exc
        engine = folder / self.engine_file
        engine.write_bytes(bytes(plan))
        return Compiled(engine, proof)

    def judges(self, engine: Path) -> str | None:
        """Why a plan does not load here, as far as its header tells (`reason_against`); None if it may."""
        return reason_against(engine)

    def load(self, engine: Path, target: Target, options: SessionOptions) -> Session:
        """Load a plan on the first GPU.

        Raises:
            TargetUnavailable: the GPU, the library or cuda-bindings is not here.
            BuildFailed: the plan does not load here.
        """
        availability = self.runs(target)
        if not availability.usable:
            raise TargetUnavailable(f"target {target} cannot run here: {availability.reason}", availability.remedy)
        reason = self.judges(engine)
        if reason is not None:
            what = f"{target} does not load {engine}: {reason}"
            raise BuildFailed(what, "build it on this machine with 'dnexport compile'")
        return TensorRTSession(importlib.import_module(_module_name(target)), engine, options, Cuda(cuda_library()))


def _module_name(target: Target) -> str:
    return "tensorrt_rtx" if target.runtime == "tensorrt-rtx" else "tensorrt"


def _library(target: Target) -> Availability:
    module = _module_name(target)
    if importlib.util.find_spec(module) is None:
        package = "pip install tensorrt-rtx" if module == "tensorrt_rtx" else "pip install 'dnexport[gpu]'"
        return Availability(False, f"{module} is not installed", package)
    try:
        return Availability(True, f"{module} {importlib.import_module(module).__version__}")
    except Exception as exc:  # a broken installation can raise anything
        return broken(module, exc)


def _refuse_options(target: Target, asked: EngineOptions) -> None:
    """TensorRT for RTX has other means for both: capabilities in the target, and a build for each version."""
    if target.runtime != "tensorrt-rtx":
        return
    if asked.hardware_compatibility != "none":
        raise UsageError(
            f"hardware_compatibility '{asked.hardware_compatibility}' is not an option of {target}",
            "name the compute capabilities in the target: tensorrt-rtx:sm86+sm89",
        )
    if asked.version_compatible:
        raise UsageError(
            f"version_compatible is not an option of {target}", "build a plan for each version of TensorRT for RTX"
        )


def _config(trt: Any, backend: Any, builder: Any, network: Any, target: Target, options: BuildOptions) -> Any:
    """The builder's settings. Detailed verbosity lets the engine inspector tell types; it costs no time in a query."""
    workspace, rtx = options.engine.workspace_mb, target.runtime == "tensorrt-rtx"
    settings: dict[str, Any] = {
        "profiles": [_profile(backend, network.get_input(0), options.profile)],
        "profiling_verbosity": trt.ProfilingVerbosity.DETAILED,
        "builder_optimization_level": options.engine.optimization_level,
        "memory_pool_limits": {trt.MemoryPoolType.WORKSPACE: workspace * _MEGABYTE} if workspace else None,
    }
    if rtx:
        from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

        capabilities = _capability_numbers(trt, target)
        config = CreateConfigRTX(compute_capabilities=capabilities, **settings)(builder, network)
    else:
        config = backend.create_config(
            builder,
            network,
            hardware_compatibility_level=_hardware_level(trt, options.engine.hardware_compatibility),
            version_compatible=options.engine.version_compatible,
            **settings,
        )
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default in both libraries
    return config


def _profile(backend: Any, taken: Any, profile: Profile) -> Any:
    least, best, most = (
        (batch, *tuple(taken.shape)[1:]) for batch in (profile.min_batch, profile.opt_batch, profile.max_batch)
    )
    return backend.Profile().add(taken.name, min=least, opt=best, max=most)


def _hardware_level(trt: Any, asked: str) -> Any:
    if asked == "none":
        return None
    level = getattr(trt.HardwareCompatibilityLevel, _HARDWARE[asked], None)  # "same" came after 10.3
    if level is None:
        raise UsageError(
            f"hardware_compatibility '{asked}' is not an option of TensorRT {trt.__version__}", "use 'ampere+'"
        )
    return level


def _capability_numbers(trt: Any, target: Target) -> list[tuple[int, int]]:
    names = target.capabilities or DEFAULT_RTX_CAPABILITIES
    unknown = [name for name in names if not hasattr(trt.ComputeCapability, name.upper())]
    if unknown:
        known = ", ".join(sorted(k.lower() for k in trt.ComputeCapability.__members__ if k.startswith("SM")))
        raise TargetUnavailable(
            f"TensorRT for RTX {trt.__version__} does not build for {unknown[0]}", f"it builds for {known}"
        )
    return [divmod(int(name.removeprefix("sm")), 10) for name in names]


@contextlib.contextmanager
def _timing_cache(config: Any, path: Path | None) -> Iterator[None]:
    """Kernels that were timed before are not timed again, and those timed now are kept, also where the build fails.

    A file that is damaged, or of another version or GPU, is as none and is replaced.
    """
    if path is None:
        yield
        return
    known = path.read_bytes() if path.is_file() else b""
    for content in (known, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            break
    try:
        yield
    finally:
        cache = config.get_timing_cache()
        if cache is not None:
            with contextlib.suppress(OSError):  # where nothing can be written, the next build times again
                write_atomically(path, bytes(cache.serialize()))


def _proof_from_network(trt: Any, network: Any, precision: Precision) -> PrecisionProof:
    """Refuse a network whose convolutions are not typed as asked: an FP32 graph builds an FP32 engine silently."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    convolutions = [layer for layer in layers if layer.type == trt.LayerType.CONVOLUTION]
    wanted = "FLOAT" if precision is Precision.FP32 else "HALF"
    right = sum(layer.get_input(0).dtype.name == wanted for layer in convolutions)
    if right < len(convolutions) or not convolutions:
        raise BuildFailed(
            f"{len(convolutions) - right} of {len(convolutions)} convolutions of the parsed network are not {wanted}",
            "the graph was not lowered for this target; build it again with dnexport",
        )
    statement = f"all {len(convolutions)} convolutions are typed {wanted} in the parsed network"
    if precision is Precision.INT8:
        quantizers = sum(layer.type == trt.LayerType.QUANTIZE for layer in layers)
        if not quantizers:
            raise BuildFailed("the parsed network has no quantize layer", "calibrate and quantize the graph first")
        statement += f", with {quantizers} quantize layers at their inputs"
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    taken, given = (((each.name, each.dtype.name) for each in side) for side in (inputs, outputs))
    statement += f"; {ends_in_words(taken, given)}"
    if precision is Precision.INT8 and trt.__name__ == "tensorrt_rtx":
        statement += "; that INT8 kernels are chosen is unproven"
    work = _conv_work(trt, layers)
    return PrecisionProof(source="parsed network", conv_work=work, reformats=None, statement=statement)


def _conv_work(trt: Any, layers: list[Any]) -> dict[str, float]:
    """Shares of the convolutions' multiply-adds: ``int8`` where data and kernel are dequantized, else as the data."""
    dequantized = {layer.get_output(0).name for layer in layers if layer.type == trt.LayerType.DEQUANTIZE}
    work: Counter[str] = Counter()
    for layer in layers:
        if layer.type != trt.LayerType.CONVOLUTION:
            continue
        layer.__class__ = trt.IConvolutionLayer  # the bindings' way to a layer's own attributes
        operands = [layer.get_input(index) for index in range(min(2, layer.num_inputs))]
        data, sides = operands[0], tuple(layer.get_output(0).shape)[2:]
        quantized = len(operands) == 2 and all(each.name in dequantized for each in operands)
        channels = data.shape[1] // layer.num_groups * layer.num_output_maps
        macs = math.prod(sides) * math.prod(layer.kernel_size_nd) * channels
        work["int8" if quantized else _KINDS.get(data.dtype.name, data.dtype.name)] += macs
    return {kind: count / work.total() for kind, count in sorted(work.items())}
