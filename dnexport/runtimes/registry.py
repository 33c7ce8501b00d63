"""From a target to the adapter that serves it; an SDK is imported when its adapter is first used."""

from collections.abc import Sequence
from pathlib import Path

from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.contract import BuildOptions, Compiled, Runtime, Session, SessionOptions
from dnexport.spec.precision import Precision
from dnexport.spec.target import Target


def runtime_for(target: Target) -> Runtime:
    """The adapter of a target's runtime."""
    if target.runtime in ("tensorrt", "tensorrt-rtx"):
        from dnexport.runtimes.tensorrt import TensorRT

        return TensorRT()
    if target.runtime == "torch":
        from dnexport.runtimes.torch_eager import Torch

        return Torch()
    if target.runtime == "openvino":
        from dnexport.runtimes.openvino import OpenVino

        return OpenVino()
    if target.runtime == "null":
        from dnexport.runtimes.null import Null

        return Null()
    from dnexport.runtimes.onnxruntime import OnnxRuntime

    return OnnxRuntime()


def compile_engine(graph: Path, folder: Path, target: Target, options: BuildOptions) -> Compiled:
    """Build an engine in this process; meant to be called in a worker (`isolate`)."""
    return runtime_for(target).compile(graph, folder, target, options)


def open_session(engine: Path, target: Target, options: SessionOptions) -> Session:
    """Load an engine in this process; meant to be called in a worker (`isolate`)."""
    return runtime_for(target).load(engine, target, options)


def session_options(
    precision: Precision,
    target: Target,
    allowed: Sequence[str] = (),
    *,
    threads: int | None = None,
    streams: int = 1,
    cache: Path | None = None,
    batch: int = 1,
) -> SessionOptions:
    """How sessions of a build run on this machine; all its threads where their number is None."""
    execution = runtime_for(target).execution(precision, target, allowed)
    return SessionOptions(execution, threads or available_threads(), streams, cache, batch=batch)
