"""What is asked of an engine, and what a runtime then really executes."""

from enum import Enum

ACCELERATORS = ("cuda", "gpu", "npu")


class Precision(str, Enum):
    """The precision asked for. It lives in the graph: a build is told nothing about it."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"

    def __str__(self) -> str:
        return self.value


class Execution(str, Enum):
    """The arithmetic a runtime carries out: an int8 engine names the type of its float body too."""

    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"
    INT8_F32 = "int8+f32"
    INT8_BF16 = "int8+bf16"
    INT8_F16 = "int8+f16"
    # Products of int8 are added in pairs in 16 bits, which overflow: x86 without VNNI.
    INT8_SATURATING_F32 = "int8-saturating+f32"

    @property
    def floats(self) -> str:
        """The type of what is not int8: ``f32``, ``bf16`` or ``f16``."""
        return self.value.rpartition("+")[2]

    @property
    def stand_in(self) -> str:
        """The word that allows it in place of what was asked for: ``bf16``, ``f32`` or ``int8-saturating``."""
        return "int8-saturating" if self is Execution.INT8_SATURATING_F32 else self.floats

    def __str__(self) -> str:
        return self.value


# What INT8_SATURATING_F32 means, for every message that names it.
SATURATION = "this processor adds pairs of int8 products in 16 bits, which saturate"


def asked_execution(precision: Precision, device: str) -> Execution:
    """What a precision means on a device: the arithmetic that needs no allowance there.

    Args:
        precision: asked for.
        device: of a target; around int8 accelerators compute in f16, everything else in f32.
    """
    if precision is Precision.INT8:
        return Execution.INT8_F16 if device in ACCELERATORS else Execution.INT8_F32
    return Execution.F16 if precision is Precision.FP16 else Execution.F32
