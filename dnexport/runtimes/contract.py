"""What every runtime offers: whether it is usable here, a compiled engine, a loaded session."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from dnexport.data.images import InputBatch
from dnexport.runtimes.arrays import Logits
from dnexport.spec.precision import Execution, Precision
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
    """

    execution: Execution
    threads: int


@dataclass(frozen=True)
class Executed:
    """The arithmetic that a session carries out.

    Attributes:
        execution: of the convolutions, and of the float body of an int8 graph.
        proof: what the statement rests on.
        shares: share of the convolution kernels by type, as far as the runtime tells.
    """

    execution: Execution
    proof: str
    shares: dict[str, float]


@dataclass(frozen=True)
class Compiled:
    """An engine as built.

    Attributes:
        engine: the file.
        proof: what is known of its precision from the build alone; empty where nothing is.
    """

    engine: Path
    proof: str = ""


@runtime_checkable
class Session(Protocol):
    """An engine that is loaded and ready."""

    def __call__(self, images: InputBatch) -> Logits:
        """Run one batch."""

    def executed(self) -> Executed:
        """What arithmetic it carries out."""


@runtime_checkable
class Runtime(Protocol):
    """One SDK."""

    engine_file: str

    def builds(self, target: Target) -> Availability:
        """Whether an engine for ``target`` can be built here."""

    def runs(self, target: Target) -> Availability:
        """Whether an engine for ``target`` can run here."""

    def execution(self, precision: Precision, target: Target) -> Execution:
        """The best execution of ``precision`` on this machine."""

    def environment(self, target: Target) -> dict[str, str]:
        """Environment variables that a process must start with."""

    def compile(self, graph: Path, folder: Path, target: Target, profile: Profile, precision: Precision) -> Compiled:
        """Build an engine from a lowered graph into ``folder``."""

    def load(self, engine: Path, target: Target, options: SessionOptions) -> Session:
        """Open an engine."""
