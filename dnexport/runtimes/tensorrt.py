"""TensorRT and TensorRT for RTX: one adapter whose only variable is the module.

Polygraphy builds. It chooses between the two libraries by an environment variable that it reads at import, so a build
runs in a process that starts with it (`environment`). A build is given a graph, a profile and a target, and nothing
about precision: the graph's types say it, and what the parser understood of them is checked before anything is built.
"""

import importlib.util
from pathlib import Path
from typing import Any

from dnexport.errors import BuildFailed, TargetUnavailable
from dnexport.runtimes.contract import Availability, Compiled, Session, SessionOptions, broken
from dnexport.runtimes.gpu import gpu_names
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.profile import Profile
from dnexport.spec.target import Target

DEFAULT_RTX_CAPABILITIES = ("sm80", "sm86", "sm89", "sm120")


class TensorRT:
    """Adapter for ``tensorrt`` and ``tensorrt-rtx``."""

    engine_file = "engine.plan"

    def builds(self, target: Target) -> Availability:
        """TensorRT for RTX builds ahead of time without a GPU; TensorRT needs the GPU it builds for."""
        module = _module_name(target)
        if importlib.util.find_spec(module) is None:
            package = "pip install tensorrt-rtx" if module == "tensorrt_rtx" else "pip install 'dnexport[gpu]'"
            return Availability(False, f"{module} is not installed", package)
        if importlib.util.find_spec("polygraphy") is None:
            return Availability(False, "polygraphy is not installed", "pip install polygraphy")
        if target.runtime == "tensorrt" and not gpu_names():
            return Availability(
                False,
                "no NVIDIA GPU is here, and TensorRT builds for the GPU it finds",
                "run 'dnexport build' on the machine with the GPU",
            )
        try:
            return Availability(True, f"{module} {importlib.import_module(module).__version__}")
        except Exception as exc:  # a broken installation can raise anything
            return broken(module, exc)

    def runs(self, target: Target) -> Availability:
        """Running needs a GPU, and is not part of this version."""
        if not gpu_names():
            return Availability(False, "no NVIDIA GPU is here", "copy the bundle to the machine with the GPU")
        return Availability(
            False,
            f"this version of dnexport builds {target.runtime} plans but does not run them",
            "run the plan with trtexec --loadEngine",
        )

    def execution(self, precision: Precision, target: Target) -> Execution:
        """What the typed graph says."""
        del target
        return {Precision.FP32: Execution.F32, Precision.FP16: Execution.F16, Precision.INT8: Execution.INT8_F16}[
            precision
        ]

    def environment(self, target: Target) -> dict[str, str]:
        """Polygraphy's switch between the two libraries."""
        return {"POLYGRAPHY_USE_TENSORRT_RTX": "1" if target.runtime == "tensorrt-rtx" else "0"}

    def compile(self, graph: Path, folder: Path, target: Target, profile: Profile, precision: Precision) -> Compiled:
        """Parse the lowered graph, check its types, build, and write the raw plan, which trtexec loads too.

        Raises:
            TargetUnavailable: the library is not here.
            BuildFailed: the parser or the builder refuses, or the parsed network is not of the precision asked for.
        """
        availability = self.builds(target)
        if not availability.usable:
            raise TargetUnavailable(f"target {target} cannot be built here: {availability.reason}", availability.remedy)
        from polygraphy.backend import trt as backend
        from polygraphy.exception import PolygraphyException

        try:
            builder, network, parser = backend.network_from_onnx_path(str(graph), strongly_typed=True)
            proof = _typed_convolutions(network, precision)
            config = _config(backend, builder, network, target, profile)
            plan = backend.engine_bytes_from_network((builder, network, parser), config=config)
        except PolygraphyException as exc:
            first_line = str(exc).strip().splitlines()[0]
            raise BuildFailed(
                f"{target} refuses {graph.name}: {first_line}", "look at the graph with 'polygraphy inspect model'"
            ) from exc
        engine = folder / self.engine_file
        engine.write_bytes(bytes(plan))
        return Compiled(engine, proof)

    def load(self, engine: Path, target: Target, options: SessionOptions) -> Session:
        """Refused: see `runs`."""
        del engine, options
        availability = self.runs(target)
        raise TargetUnavailable(f"target {target} cannot run here: {availability.reason}", availability.remedy)


def _module_name(target: Target) -> str:
    return "tensorrt_rtx" if target.runtime == "tensorrt-rtx" else "tensorrt"


def _config(backend: Any, builder: Any, network: Any, target: Target, profile: Profile) -> Any:
    shape = tuple(network.get_input(0).shape)[1:]
    name = network.get_input(0).name
    batches = (profile.min_batch, profile.opt_batch, profile.max_batch)
    sizes = [(batch, *shape) for batch in batches]
    profiles = [backend.Profile().add(name, min=sizes[0], opt=sizes[1], max=sizes[2])]
    if target.runtime == "tensorrt":
        return backend.create_config(builder, network, profiles=profiles, tf32=False)
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX

    trt = importlib.import_module("tensorrt_rtx")
    names = target.capabilities or DEFAULT_RTX_CAPABILITIES
    unknown = [name for name in names if not hasattr(trt.ComputeCapability, name.upper())]
    if unknown:
        known = ", ".join(sorted(k.lower() for k in trt.ComputeCapability.__members__ if k.startswith("SM")))
        raise TargetUnavailable(
            f"TensorRT for RTX {trt.__version__} does not build for {unknown[0]}", f"it builds for {known}"
        )
    capabilities = [divmod(int(name.removeprefix("sm")), 10) for name in names]
    return CreateConfigRTX(compute_capabilities=capabilities, profiles=profiles)(builder, network)


def _typed_convolutions(network: Any, precision: Precision) -> str:
    """Refuse a network whose convolutions are not typed as asked: an FP32 graph builds an FP32 engine silently."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    types = [
        str(layer.get_input(0).dtype).rpartition(".")[2] for layer in layers if str(layer.type).endswith("CONVOLUTION")
    ]
    wanted = "FLOAT" if precision is Precision.FP32 else "HALF"
    right = types.count(wanted)
    if right < len(types) or not types:
        raise BuildFailed(
            f"{len(types) - right} of {len(types)} convolutions of the parsed network are not {wanted}",
            "the graph was not lowered for this target; build it again with dnexport",
        )
    proof = f"all {len(types)} convolutions are typed {wanted} in the parsed network"
    if precision is Precision.INT8:
        quantizers = sum(str(layer.type).endswith(".QUANTIZE") for layer in layers)
        if not quantizers:
            raise BuildFailed("the parsed network has no quantize layer", "calibrate and quantize the graph first")
        proof += f", with {quantizers} quantize layers at their inputs; that INT8 kernels are chosen is unproven"
    return proof
