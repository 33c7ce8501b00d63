"""What this machine can build and run, and what would mend the rest."""

from dataclasses import dataclass

from dnexport.runtimes.contract import Availability
from dnexport.runtimes.registry import runtime_for
from dnexport.spec.precision import Precision, asked_execution
from dnexport.spec.target import Target

_TARGETS = (
    "tensorrt",
    "tensorrt-rtx",
    "onnxruntime:cuda",
    "openvino:cpu",
    "openvino:gpu",
    "openvino:npu",
    "onnxruntime:cpu",
    "torch",
)


@dataclass(frozen=True)
class Diagnosis:
    """One target on this machine."""

    target: str
    builds: Availability
    runs: Availability
    fp16: str | None
    int8: str | None

    @property
    def builds_text(self) -> str:
        """Yes or no."""
        return "yes" if self.builds.usable else "no"

    @property
    def runs_text(self) -> str:
        """Yes or no, and what fp16 and int8 would execute where that is something else."""
        if not self.runs.usable:
            return "no"
        others = [f"{name} as {as_}" for name, as_ in (("fp16", self.fp16), ("int8", self.int8)) if as_]
        return ", ".join(["yes", *others])

    @property
    def reason(self) -> str:
        """What was found; both where building and running differ."""
        return (
            self.builds.reason
            if self.builds.reason == self.runs.reason
            else f"{self.builds.reason}; {self.runs.reason}"
        )

    @property
    def remedy(self) -> str:
        """The command that mends it."""
        return self.builds.remedy or self.runs.remedy

    def document(self) -> dict[str, object]:
        """For ``--json``."""
        return {
            "builds": self.builds.usable,
            "runs": self.runs.usable,
            "reason": self.reason,
            "remedy": self.remedy or None,
            "fp16_executes_as": self.fp16,
            "int8_executes_as": self.int8,
        }


def diagnoses() -> list[Diagnosis]:
    """One diagnosis a target, in the order in which ``auto`` looks."""
    found = []
    for text in _TARGETS:
        target = Target.parse(text)
        runtime = runtime_for(target)
        builds, runs = runtime.builds(target), runtime.runs(target)
        fp16, int8 = (
            _stand_in(target, precision) if runs.usable and text != "torch" else None
            for precision in (Precision.FP16, Precision.INT8)
        )
        found.append(Diagnosis(text, builds, runs, fp16, int8))
    return found


def _stand_in(target: Target, precision: Precision) -> str | None:
    """What a target executes in place of a precision; None where it executes just that."""
    execution = runtime_for(target).execution(precision, target)
    return None if execution is asked_execution(precision, target.device) else str(execution)
