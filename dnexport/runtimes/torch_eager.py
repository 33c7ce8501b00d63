"""PyTorch as the reference: the forms in which people run a network, each named.

A module comes from a factory, so that this file knows nothing of checkpoints or architectures.
"""

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from dnexport.data.images import Fed, InputBatch
from dnexport.errors import TargetUnavailable
from dnexport.runtimes.arrays import Logits
from dnexport.runtimes.contract import Availability, BuildOptions, Compiled, Executed, Session, SessionOptions
from dnexport.spec.metrics import PrecisionProof
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.preprocess import InputType
from dnexport.spec.target import Target

if TYPE_CHECKING:
    import torch

Device = Literal["cpu", "cuda"]


@dataclass(frozen=True)
class Form:
    """A way in which people run a module.

    Attributes:
        layout: of images and weights.
        dtype: of both.
        compiled: by torch.compile.
        device: where.
        single: on one thread, which is faster where a network is so small that threads cost more than they bring.
    """

    layout: Literal["contiguous", "channels-last"] = "contiguous"
    dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    compiled: bool = False
    device: Device = "cpu"
    single: bool = False

    @property
    def execution(self) -> Execution:
        """Its arithmetic."""
        return {"fp32": Execution.F32, "bf16": Execution.BF16, "fp16": Execution.F16}[self.dtype]

    def __str__(self) -> str:
        how = "compiled" if self.compiled else "eager" if self.layout == "contiguous" else self.layout
        where = " on CUDA" if self.device == "cuda" else ""
        return f"{how} {self.dtype}{where}{', one thread' if self.single else ''}"


EAGER = Form()


def forms_on(device: Device, *, compiled: bool = False, single: bool = False) -> tuple[Form, ...]:
    """The forms that compete there, eager FP32 first.

    Args:
        device: where.
        compiled: torch.compile competes too, which takes minutes.
        single: each form competes on one thread too.
    """
    half: Literal["bf16", "fp16"] = "fp16" if device == "cuda" else "bf16"
    tuned = tuple(Form(layout="channels-last", dtype=dtype, device=device) for dtype in ("fp32", half))
    forms = (Form(device=device), *tuned, *(replace(form, compiled=True) for form in tuned if compiled))
    return (*forms, *(replace(form, single=True) for form in forms if single))


def cuda_usable() -> bool:
    """Whether PyTorch can use a GPU here; meant to be called in a worker (`isolate`)."""
    import torch

    return bool(torch.cuda.is_available())


class Torch:
    """Adapter for ``torch``, which builds nothing and is compared with everything."""

    engine_file = ""
    concurrent = True

    def builds(self, target: Target) -> Availability:
        """Never: it is the reference."""
        del target
        return Availability(
            False, "torch is the reference that engines are compared with, not an engine", "name another target"
        )

    def runs(self, target: Target) -> Availability:
        """Whether PyTorch is installed."""
        del target
        if importlib.util.find_spec("torch") is None:
            return Availability(False, "torch is not installed", "pip install 'dnexport[host]'")
        from importlib.metadata import version

        return Availability(True, f"torch {version('torch')}")

    def execution(self, precision: Precision, target: Target, allowed: Sequence[str] = ()) -> Execution:
        """The reference is FP32."""
        del precision, target, allowed
        return Execution.F32

    def packages(self, target: Target) -> tuple[str, ...]:
        """PyTorch itself."""
        del target
        return ("torch",)

    def environment(self, target: Target) -> dict[str, str]:
        """None needed."""
        del target
        return {}

    def compile(self, graph: Path, folder: Path, target: Target, options: BuildOptions) -> Compiled:
        """Refused: see `builds`."""
        del graph, folder, options
        availability = self.builds(target)
        raise TargetUnavailable(f"target {target} cannot be built: {availability.reason}", availability.remedy)

    def judges(self, engine: Path) -> None:
        """Nothing is known before it is loaded."""

    def load(self, engine: Path, target: Target, options: SessionOptions) -> Session:
        """Refused: a module comes from a factory (`TorchSession`)."""
        del engine, options
        raise TargetUnavailable(f"target {target} has no engine file", "name another target")


@functools.cache
def _own_threads() -> int:
    """The threads that PyTorch takes where nobody says a number."""
    import torch

    return torch.get_num_threads()


class TorchSession:
    """A module in evaluation mode, in one of its forms; images come from, and logits go to, the host's memory.

    Args:
        factory: returns the module.
        form: how it runs.
        threads: of PyTorch's pool; as many as PyTorch takes by itself where it is None.
    """

    def __init__(self, factory: "Callable[[], torch.nn.Module]", form: Form, threads: int | None = None) -> None:
        import torch

        self._torch, self._form = torch, form
        own = _own_threads()  # asked before any session of this process changes it
        self._threads = 1 if form.single else threads or own
        self._dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[form.dtype]
        self._layout = torch.contiguous_format if form.layout == "contiguous" else torch.channels_last
        module = factory().eval().requires_grad_(False)
        module = module.to(device=form.device, dtype=self._dtype, memory_format=self._layout)  # type: ignore[call-overload]
        self._module = torch.compile(module, options={"freezing": True}) if form.compiled else module

    def __call__(self, images: InputBatch) -> Logits:
        """Run one batch."""
        if self._torch.get_num_threads() != self._threads:  # the pool is the process's, which may hold other sessions
            self._torch.set_num_threads(self._threads)
        with self._torch.inference_mode():
            x = self._torch.from_numpy(images).to(self._form.device, self._dtype)
            logits: Logits = self._module(x.contiguous(memory_format=self._layout)).float().cpu().numpy()
        return logits

    @property
    def threads(self) -> int:
        """Of PyTorch's pool while it answers."""
        return self._threads

    @property
    def input_type(self) -> InputType:
        """Normalised images."""
        return "float32"

    def values(self, images: InputBatch) -> dict[str, np.ndarray]:
        """Run one batch."""
        return {"logits": self(images)}

    def executed(self, macs: Mapping[str, int]) -> Executed:
        """The type of the parameters."""
        del macs
        execution = self._form.execution
        statement = "the type of the module's parameters"
        proof = PrecisionProof(source="module", conv_work={execution.value: 1.0}, reformats=None, statement=statement)
        return Executed(execution, proof)

    def phases(self) -> None:
        """Not told: one wall clock tells all."""

    def kernel_times(self, images: Fed) -> None:
        """Not told: its kernels are those of a module, not of a graph."""
        del images

    def close(self) -> None:
        """Nothing is held beside memory."""
