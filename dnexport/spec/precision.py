"""What is asked of an engine, and what a runtime then really executes."""

from enum import Enum


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

    @property
    def floats(self) -> str:
        """The type of what is not int8: ``f32``, ``bf16`` or ``f16``."""
        return self.value.rpartition("+")[2]

    def __str__(self) -> str:
        return self.value
