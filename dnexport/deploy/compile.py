"""Build one engine in a child process."""

from pathlib import Path

from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.contract import Compiled, SessionOptions
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.registry import compile_engine, runtime_for
from dnexport.spec.precision import Precision
from dnexport.spec.profile import Profile
from dnexport.spec.target import Target


def compile_target(graph: Path, folder: Path, target: Target, profile: Profile, precision: Precision) -> Compiled:
    """From a lowered graph to an engine in ``folder``.

    Raises:
        TargetUnavailable: the target cannot be built here.
        BuildFailed: the vendor library refuses.
        WorkerCrashed: it crashes, hangs or runs out of memory.
    """
    with Worker(f"building {target}", env=runtime_for(target).environment(target)) as worker:
        return worker.call(compile_engine, graph, folder, target, profile, precision)


def session_options(precision: Precision, target: Target, threads: int | None = None) -> SessionOptions:
    """How sessions of this build run on this machine."""
    return SessionOptions(runtime_for(target).execution(precision, target), threads or available_threads())


def probe_worker(label: str, target: Target, threads: int) -> Worker:
    """A worker in which sessions of ``target`` may be opened."""
    return Worker(label, env=runtime_for(target).environment(target), threads=threads)
