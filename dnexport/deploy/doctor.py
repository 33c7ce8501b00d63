"""What this machine can build and run, and what would mend the rest."""

from dataclasses import dataclass

from dnexport.runtimes.contract import Availability
from dnexport.runtimes.registry import runtime_for
from dnexport.spec.precision import Precision
from dnexport.spec.target import Target

_TARGETS = ("tensorrt", "tensorrt-rtx", "onnxruntime:cuda", "openvino:cpu", "onnxruntime:cpu", "torch")


@dataclass(frozen=True)
class Diagnosis:
    """One target on this machine."""

    target: str
    builds: Availability
    runs: Availability
    fp16: str | None

    @property
    def builds_text(self) -> str:
        """Yes or no."""
        return "yes" if self.builds.usable else "no"

    @property
    def runs_text(self) -> str:
        """Yes or no, and what fp16 would execute."""
        if not self.runs.usable:
            return "no"
        return f"yes, fp16 as {self.fp16}" if self.fp16 else "yes"

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
        }


def diagnoses() -> list[Diagnosis]:
    """One diagnosis a target, in the order in which ``auto`` looks."""
    found = []
    for text in _TARGETS:
        target = Target.parse(text)
        runtime = runtime_for(target)
        builds, runs = runtime.builds(target), runtime.runs(target)
        fp16 = (
            str(runtime.execution(Precision.FP16, target))
            if runs.usable and target.device == "cpu" and text != "torch"
            else None
        )
        found.append(Diagnosis(text, builds, runs, fp16))
    return found
