"""Build one engine in a child process."""

import hashlib
from pathlib import Path

from dnexport.runtimes.cache import cache_folder
from dnexport.runtimes.contract import BuildOptions, Compiled
from dnexport.runtimes.gpu import gpu_names
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.registry import compile_engine, runtime_for
from dnexport.spec.recipe import Recipe
from dnexport.spec.target import Target

# A small board that tries every kernel takes its time.
_PATIENCE_S = 3600.0


def compile_target(graph: Path, folder: Path, target: Target, options: BuildOptions) -> Compiled:
    """From a lowered graph to an engine in ``folder``.

    Raises:
        TargetUnavailable: the target cannot be built here.
        UsageError: it does not have an option that was asked for.
        BuildFailed: the vendor library refuses, or the plan is not of the precision asked for.
        WorkerCrashed: it crashes, hangs or runs out of memory.
    """
    with Worker(f"building {target}", env=runtime_for(target).environment(target)) as worker:
        return worker.call(compile_engine, graph, folder, target, options, timeout_s=_PATIENCE_S)


def build_options(recipe: Recipe, target: Target) -> BuildOptions:
    """What a recipe says of its engines; kernels that TensorRT has timed on this GPU are remembered."""
    runtime = runtime_for(target)
    identity = (target.runtime, runtime.builds(target).reason, gpu_names())
    file = f"{target.runtime}-{hashlib.sha256(repr(identity).encode()).hexdigest()[:16]}.cache"
    timed = cache_folder("timing") / file if target.runtime == "tensorrt" else None
    return BuildOptions(recipe.profile, recipe.precision, recipe.engine, timed)
