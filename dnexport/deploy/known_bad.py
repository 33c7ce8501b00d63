"""Library versions that were seen to compute something wrong, and what is done or to be done about it.

A build proves its engines all the same; a warning says why a failure would be no surprise.
"""

from collections.abc import Mapping
from typing import NamedTuple

from dnexport.spec.precision import Precision
from dnexport.spec.target import Target

_PACKAGE = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt-rtx", "openvino": "openvino"}


class _Bad(NamedTuple):
    package: str
    version: str
    why: str
    only: Precision | None = None


_BAD = (
    _Bad(
        "openvino",
        "2026.4.1",
        "OpenVINO 2026.4.1 miscomputes some INT8 graphs; dnexport's lowering avoids the patterns that are known",
        only=Precision.INT8,
    ),
    _Bad(
        "tensorrt",
        "11.2.1",
        "TensorRT 11.2.1 reads strided concatenation views as dense in some FP16 graphs with residual additions, which"
        " DPN has (NVIDIA/TensorRT issue 4854); use another version",
    ),
    _Bad("tensorrt", "10.2.0", "TensorRT 10.2.0 is skipped by another exporter (ultralytics); use another version"),
    _Bad(
        "tensorrt",
        "10.3.0",
        "TensorRT 10.3 of JetPack 6.1 and 6.2 was seen to lose INT8 accuracy on Orin Nano (NVIDIA/Model-Optimizer issue"
        " 76); look at the self-test",
        only=Precision.INT8,
    ),
)


def package_of(target: Target) -> str:
    """The package whose version decides what an engine of a target computes."""
    if target.device == "cuda" and target.runtime == "onnxruntime":
        return "onnxruntime-gpu"
    return _PACKAGE.get(target.runtime, "onnxruntime")


def warnings_about(target: Target, precision: Precision, versions: Mapping[str, str]) -> tuple[str, ...]:
    """What is known against the installed version that a target would use."""
    package = package_of(target)
    here = versions.get(package, "")
    return tuple(
        bad.why for bad in _BAD if bad.package == package and bad.only in (None, precision) and _is(here, bad.version)
    )


def _is(here: str, bad: str) -> bool:
    """``11.2.1.2`` is 11.2.1, and ``11.2.10`` is not."""
    return here == bad or here.startswith(f"{bad}.")
