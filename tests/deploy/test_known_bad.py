import pytest

from dnexport.deploy.known_bad import package_of, warnings_about
from dnexport.spec.precision import Precision
from dnexport.spec.target import Target

TENSORRT, OPENVINO = Target.parse("tensorrt"), Target.parse("openvino:cpu")


@pytest.mark.parametrize(
    ("target", "precision", "version", "words"),
    [
        (TENSORRT, Precision.FP16, "11.2.1.2", "issue 4854"),
        (TENSORRT, Precision.INT8, "10.3.0.26", "lose INT8 accuracy"),
        (TENSORRT, Precision.FP16, "10.3.0.26", None),
        (TENSORRT, Precision.FP16, "11.2.10", None),
        (TENSORRT, Precision.FP16, "11.4.1", None),
        (OPENVINO, Precision.INT8, "2026.4.1", "miscomputes some INT8 graphs"),
        (OPENVINO, Precision.FP16, "2026.4.1", None),
    ],
)
def test_a_version_that_is_known_is_warned_of(
    target: Target, precision: Precision, version: str, words: str | None
) -> None:
    found = warnings_about(target, precision, {package_of(target): version})
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_a_package_that_is_not_here_is_no_reason() -> None:
    assert warnings_about(TENSORRT, Precision.INT8, {"onnxruntime": "1.31"}) == ()
