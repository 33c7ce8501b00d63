"""What a recipe says of TensorRT's builder; the precision is not among it, for it lives in the graph."""

from typing import Literal

from pydantic import Field

from dnexport.spec.record import Record


class EngineOptions(Record):
    """The ``[engine]`` part of a recipe.

    Attributes:
        workspace_mb: most GPU memory that a kernel may use beside tensors, in 10⁶ bytes; None leaves it to the builder.
        optimization_level: 0 (fast build) to 5 (every kernel tried); None takes the library's default.
        hardware_compatibility: which other GPUs a plan of ``tensorrt`` runs on; each step costs speed.
        version_compatible: a plan of ``tensorrt`` that later versions load too, with the lean runtime in it.
    """

    workspace_mb: int | None = Field(default=None, ge=1)
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    hardware_compatibility: Literal["none", "ampere+", "same-compute-capability"] = "none"
    version_compatible: bool = False
