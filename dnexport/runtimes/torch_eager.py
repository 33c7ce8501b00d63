"""PyTorch as the reference: the forms in which people run a network on a CPU, each named.

A module comes from a factory, so that this file knows nothing of checkpoints or architectures.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dnexport.data.images import InputBatch
from dnexport.errors import TargetUnavailable
from dnexport.runtimes.arrays import Logits
from dnexport.runtimes.contract import Availability, BuildOptions, Compiled, Executed, Session, SessionOptions
from dnexport.spec.metrics import PrecisionProof
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.preprocess import InputType
from dnexport.spec.target import Target

if TYPE_CHECKING:
    import torch

EAGER = "eager fp32"
FORMS = (EAGER, "channels-last fp32", "channels-last bf16", "compiled bf16")


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

    def execution(self, precision: Precision, target: Target) -> Execution:
        """The reference is FP32."""
        del precision, target
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


class TorchSession:
    """A module in evaluation mode, in one of `FORMS`.

    Args:
        factory: returns the module.
        form: how it runs.
        threads: of PyTorch's pool.
    """

    def __init__(self, factory: "Callable[[], torch.nn.Module]", form: str, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        module = factory().eval().requires_grad_(False)
        self._torch = torch
        self._dtype = torch.bfloat16 if form.endswith("bf16") else torch.float32
        self._layout = torch.contiguous_format if form == EAGER else torch.channels_last
        module = module.to(dtype=self._dtype, memory_format=self._layout)  # type: ignore[call-overload]
        self._module = torch.compile(module, options={"freezing": True}) if form.startswith("compiled") else module

    def __call__(self, images: InputBatch) -> Logits:
        """Run one batch."""
        with self._torch.inference_mode():
            x = self._torch.from_numpy(images).to(self._dtype).contiguous(memory_format=self._layout)
            logits: Logits = self._module(x).float().numpy()
        return logits

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
        execution = Execution.BF16 if self._dtype is self._torch.bfloat16 else Execution.F32
        statement = "the type of the module's parameters"
        proof = PrecisionProof(source="module", conv_work={execution.value: 1.0}, reformats=None, statement=statement)
        return Executed(execution, proof)

    def phases(self) -> None:
        """Not told on a CPU."""

    def close(self) -> None:
        """Nothing is held beside memory."""
