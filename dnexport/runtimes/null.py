"""A runtime without an SDK, for tests and for trying dnexport out: it computes graphs and fails to order.

ONNX Runtime computes the lowered graph in float, and the session claims that it executed just what was asked for. So
everything around an engine (bundles, fleets, checks, archives, kills) can be tried on a machine whatever its processor
and its packages are. The device in the target orders what goes wrong, so that one bundle can hold several failures:

    null:cpu  works                      null:absent  is not here, so that it is prepared
    null:refuses  refuses to build       null:stuck  does not answer
    null:crashes  ends its process       null:nan  answers NaN
"""

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dnexport.data.images import Fed
from dnexport.errors import BuildFailed, TargetUnavailable
from dnexport.runtimes.arrays import Logits, check_fed
from dnexport.runtimes.contract import (
    Availability,
    BuildOptions,
    Compiled,
    Executed,
    SessionOptions,
)
from dnexport.runtimes.onnxruntime import OnnxRuntime, float_session
from dnexport.spec.metrics import PrecisionProof
from dnexport.spec.precision import Execution, Precision, asked_execution
from dnexport.spec.preprocess import InputType
from dnexport.spec.target import Target

_ORT_CPU = Target(runtime="onnxruntime", device="cpu")
_STUCK_S = 3600.0


class Null:
    """Adapter for ``null``."""

    engine_file = "model.onnx"
    concurrent = True

    def builds(self, target: Target) -> Availability:
        """Where ONNX Runtime is, unless the target is to be absent."""
        if target.device == "absent":
            return Availability(False, "it is not here, as ordered")
        found = OnnxRuntime().runs(_ORT_CPU)
        return Availability(True, "null runtime") if found.usable else found

    def runs(self, target: Target) -> Availability:
        """As `builds`."""
        return self.builds(target)

    def execution(self, precision: Precision, target: Target, allowed: Sequence[str] = ()) -> Execution:
        """What was asked for."""
        del target, allowed
        return asked_execution(precision, "cpu")

    def packages(self, target: Target) -> tuple[str, ...]:
        """ONNX Runtime's, which computes."""
        del target
        return ("onnxruntime",)

    def environment(self, target: Target) -> dict[str, str]:
        """None needed."""
        del target
        return {}

    def compile(self, graph: Path, folder: Path, target: Target, options: BuildOptions) -> Compiled:
        """Take the graph as the engine.

        Raises:
            TargetUnavailable: it is ordered to be absent, or ONNX Runtime is not here.
            BuildFailed: as ordered.
        """
        del options
        availability = self.builds(target)
        if not availability.usable:
            raise TargetUnavailable(f"target {target} cannot be built here: {availability.reason}", availability.remedy)
        if target.device == "refuses":
            raise BuildFailed(f"{target} refuses {graph}, as ordered", "name another target")
        if target.device == "crashes":
            os.abort()
        engine = folder / self.engine_file
        if graph != engine:
            shutil.copyfile(graph, engine)
        return Compiled(engine)

    def judges(self, engine: Path) -> None:
        """Nothing is known before it is loaded."""

    def load(self, engine: Path, target: Target, options: SessionOptions) -> "NullSession":
        """Open a graph.

        Raises:
            TargetUnavailable: it is ordered to be absent, or ONNX Runtime is not here.
        """
        availability = self.runs(target)
        if not availability.usable:
            raise TargetUnavailable(f"target {target} cannot run here: {availability.reason}", availability.remedy)
        return NullSession(engine, target, options)


class NullSession:
    """A graph that ONNX Runtime computes in float."""

    def __init__(self, engine: Path, target: Target, options: SessionOptions) -> None:
        self._target, self._options = target, options
        try:
            self._session = float_session(engine)
        except Exception as exc:  # the exception classes of ONNX Runtime share no other base
            raise BuildFailed(f"{target} refuses {engine}: {exc}", "give another graph") from exc
        (taken,) = self._session.get_inputs()
        self._input, self._shape = taken.name, tuple(int(dim) for dim in taken.shape[1:])
        self._type: InputType = "uint8" if taken.type == "tensor(uint8)" else "float32"

    @property
    def input_type(self) -> InputType:
        """What it takes."""
        return self._type

    def __call__(self, images: Fed) -> Logits:
        """Run one batch, or fail as ordered."""
        logits: Logits = next(iter(self.values(images).values()))
        return logits

    def values(self, images: Fed) -> dict[str, np.ndarray]:
        """Run one batch; every output by name."""
        check_fed(images, self._type, self._shape, str(self._target))
        if self._target.device == "stuck":
            time.sleep(_STUCK_S)
        names = [output.name for output in self._session.get_outputs()]
        found = dict(zip(names, self._session.run(names, {self._input: images}), strict=True))
        if self._target.device == "nan":
            return {name: np.full_like(value, np.nan) for name, value in found.items()}
        return found

    def executed(self, macs: Mapping[str, int]) -> Executed:
        """What was asked for; nothing proves it."""
        del macs
        execution = self._options.execution
        kind = execution.value.partition("+")[0]
        statement = "the word of a runtime that proves nothing"
        proof = PrecisionProof(source="null runtime", conv_work={kind: 1.0}, reformats=None, statement=statement)
        return Executed(execution, proof)

    def phases(self) -> None:
        """Not told."""

    def kernel_times(self, images: Fed) -> None:
        """Not told."""
        del images

    def close(self) -> None:
        """Nothing is held beside memory."""
