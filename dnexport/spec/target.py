"""Targets: runtime, device and compute capabilities in one string.

``tensorrt`` · ``tensorrt-rtx:sm86+sm89`` · ``onnxruntime:cuda`` · ``onnxruntime:cpu`` · ``openvino:cpu`` ·
``openvino:gpu`` · ``openvino:npu`` · ``torch``

``parse`` and ``str`` are inverse. ``null:cpu`` is for tests (`runtimes.null`). ``auto`` is no target but a question;
`deploy.targets` answers it.
"""

import re

from pydantic import model_validator

from dnexport.errors import UsageError
from dnexport.spec.record import Record, nearest

DEVICES = {
    "tensorrt": ("cuda",),
    "tensorrt-rtx": ("cuda",),
    "onnxruntime": ("cpu", "cuda"),
    "openvino": ("cpu", "gpu", "npu"),
    "torch": ("cpu",),
    "null": ("cpu", "absent", "refuses", "crashes", "stuck", "nan"),
}

_CAPABILITY = re.compile(r"sm\d{2,3}")


class Target(Record):
    """Where an engine runs.

    Attributes:
        runtime: one of the keys of `DEVICES`.
        device: ``cpu``, ``cuda`` (NVIDIA's GPUs), ``gpu`` or ``npu`` (Intel's); of ``null``, what it does.
        capabilities: ``("sm86", "sm89")`` for ahead-of-time plans; ascending, unique.
    """

    runtime: str
    device: str
    capabilities: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Target":
        if self.runtime not in DEVICES:
            raise ValueError(f"unknown runtime '{self.runtime}'")
        if self.device not in DEVICES[self.runtime]:
            raise ValueError(f"{self.runtime} has no device '{self.device}'")
        if self.capabilities and self.runtime != "tensorrt-rtx":
            raise ValueError("only tensorrt-rtx is built for named compute capabilities")
        if list(self.capabilities) != sorted(set(self.capabilities), key=_capability_number):
            raise ValueError("compute capabilities are unique and ascending")
        return self

    @classmethod
    def parse(cls, text: str) -> "Target":
        """Read the string form.

        Raises:
            UsageError: the runtime, device or a compute capability is not known.
        """
        runtime, _, detail = text.strip().lower().partition(":")
        if runtime not in DEVICES:
            raise UsageError(f"unknown target '{text}'", nearest(text, example_targets()))
        if runtime == "tensorrt-rtx":
            return cls(runtime=runtime, device="cuda", capabilities=_capabilities(text, detail))
        if detail.startswith("dla"):
            raise UsageError(
                f"target '{text}' asks for DLA, which takes no dynamic batch, and which TensorRT after 10.7 has"
                " on AGX Orin with JetPack 7.2.2 only",
                "name tensorrt, which runs on the GPU of the same board",
            )
        device = detail or DEVICES[runtime][0]
        if device not in DEVICES[runtime]:
            options = " or ".join(f"{runtime}:{name}" for name in DEVICES[runtime])
            raise UsageError(f"target '{text}' names a device that {runtime} does not have", f"use {options}")
        return cls(runtime=runtime, device=device)

    def __str__(self) -> str:
        if self.capabilities:
            return f"{self.runtime}:{'+'.join(self.capabilities)}"
        return f"{self.runtime}:{self.device}" if self.runtime in ("onnxruntime", "openvino", "null") else self.runtime

    @property
    def slug(self) -> str:
        """The string form as a directory name."""
        return re.sub(r"[:+]", "-", str(self))


def example_targets() -> list[str]:
    """One spelling of each kind of target, for messages and help."""
    return [
        "auto",
        "tensorrt",
        "tensorrt-rtx",
        "tensorrt-rtx:sm86+sm89",
        "onnxruntime:cpu",
        "onnxruntime:cuda",
        "openvino:cpu",
        "openvino:gpu",
        "openvino:npu",
        "torch",
    ]


def _capabilities(text: str, detail: str) -> tuple[str, ...]:
    names = detail.split("+") if detail else []
    for name in names:
        if not _CAPABILITY.fullmatch(name):
            raise UsageError(
                f"target '{text}' has '{name}' where a compute capability such as sm86 belongs",
                "write tensorrt-rtx:sm86+sm89",
            )
    return tuple(sorted(set(names), key=_capability_number))


def _capability_number(name: str) -> int:
    return int(name.removeprefix("sm"))
