"""What every runtime offers: whether it is usable here, a compiled engine, a loaded session."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from dnexport.data.images import Fed
from dnexport.runtimes.arrays import Logits
from dnexport.spec.engine import EngineOptions
from dnexport.spec.metrics import PrecisionProof
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.preprocess import InputType
from dnexport.spec.profile import Profile
from dnexport.spec.target import Target


@dataclass(frozen=True)
class Availability:
    """Whether something works on this machine.

    Attributes:
        usable: it does.
        reason: what was found, either way.
        remedy: the command that mends it; empty where it is usable or nothing helps.
    """

    usable: bool
    reason: str
    remedy: str = ""


def broken(package: str, exc: Exception) -> Availability:
    """An installed package that does not load."""
    first_line = (str(exc).strip().splitlines() or [type(exc).__name__])[0]
    return Availability(
        False, f"{package} is installed but does not load: {first_line}", f"pip install --force-reinstall {package}"
    )


@dataclass(frozen=True)
class SessionOptions:
    """How a session runs.

    Attributes:
        execution: arithmetic to ask the runtime for.
        threads: worker threads of a CPU runtime.
        streams: queries that a CPU runtime works on at a time, for callers with several threads.
        cache: folder for what a runtime compiles when it loads an engine, so that the next load is faster; None keeps
            nothing.
        cuda_graph: launch a query as one CUDA graph where the runtime has them.
        batch: images of the query that a runtime which compiles for one batch size prepares for when it loads.
    """

    execution: Execution
    threads: int
    streams: int = 1
    cache: Path | None = None
    cuda_graph: bool = True
    batch: int = 1


@dataclass(frozen=True)
class BuildOptions:
    """What an engine is built for, beside its graph and its target.

    Attributes:
        profile: batch sizes.
        precision: asked for; the graph holds it, and a builder proves that it does.
        engine: of the recipe.
        timing_cache: file in which TensorRT keeps the kernels it has timed; None keeps nothing.
    """

    profile: Profile
    precision: Precision
    engine: EngineOptions = field(default_factory=EngineOptions)
    timing_cache: Path | None = None


@dataclass(frozen=True)
class Executed:
    """The arithmetic that a session carries out.

    Attributes:
        execution: of the convolutions, and of the float body of an int8 graph.
        proof: what the statement rests on.
    """

    execution: Execution
    proof: PrecisionProof


@dataclass(frozen=True)
class Compiled:
    """An engine as built.

    Attributes:
        engine: the file.
        proof: what is known of its precision from the build alone; None where nothing is.
    """

    engine: Path
    proof: PrecisionProof | None = None


@dataclass(frozen=True)
class Phases:
    """Where the time of one query went, in milliseconds, as the device's own events tell.

    Attributes:
        enqueue_ms: the host's, to launch it.
        h2d_ms: the input's way to the device.
        compute_ms: on the device.
        d2h_ms: the output's way back.
    """

    enqueue_ms: float
    h2d_ms: float
    compute_ms: float
    d2h_ms: float


class KernelTime(NamedTuple):
    """The time of one kernel in the runtime's own profile of a query.

    Attributes:
        names: of the graph's nodes, or of the values they give, as the runtime tells them; it may have appended parts.
        ms: in milliseconds; the median over several queries.
    """

    names: tuple[str, ...]
    ms: float


@runtime_checkable
class Session(Protocol):
    """An engine that is loaded and ready.

    Attributes:
        input_type: what it takes: ``float32`` images, [batch, channels, height, width], normalised; or ``uint8``
            pixels, [batch, height, width, channels], as they are.
    """

    @property
    def input_type(self) -> InputType:
        """What it takes."""

    def __call__(self, images: Fed) -> Logits:
        """Run one batch."""

    def values(self, images: Fed) -> dict[str, np.ndarray]:
        """Run one batch; every output of the engine by name."""

    def executed(self, macs: Mapping[str, int]) -> Executed:
        """What arithmetic it carries out.

        Args:
            macs: multiply-adds an image by name of the convolution; one that is not named counts as the least.
        """

    def phases(self) -> Phases | None:
        """Of the last query; None where the runtime has no events of its own."""

    def kernel_times(self, images: Fed) -> tuple[KernelTime, ...] | None:
        """The kernels of one query, in the order in which they run; None where the runtime does not time them."""

    def close(self) -> None:
        """Give back what it holds; the second call does nothing."""


@runtime_checkable
class Runtime(Protocol):
    """One SDK.

    Attributes:
        engine_file: name of what it builds.
        concurrent: threads may share a session.
    """

    engine_file: str
    concurrent: bool

    def builds(self, target: Target) -> Availability:
        """Whether an engine for ``target`` can be built here."""

    def runs(self, target: Target) -> Availability:
        """Whether an engine for ``target`` can run here."""

    def execution(self, precision: Precision, target: Target, allowed: Sequence[str] = ()) -> Execution:
        """The best execution of ``precision`` on this machine.

        Args:
            precision: asked for.
            target: of the engine.
            allowed: float types that a CPU may use in place of fp16, and around int8; none where none were named.
        """

    def packages(self, target: Target) -> tuple[str, ...]:
        """The installed packages that are this runtime, as ``pip`` names them."""

    def environment(self, target: Target) -> dict[str, str]:
        """Environment variables that a process must start with."""

    def compile(self, graph: Path, folder: Path, target: Target, options: BuildOptions) -> Compiled:
        """Build an engine from a lowered graph into ``folder``."""

    def judges(self, engine: Path) -> str | None:
        """Why an engine does not load here, as far as that can be told without loading it; None if it may."""

    def load(self, engine: Path, target: Target, options: SessionOptions) -> Session:
        """Open an engine."""
