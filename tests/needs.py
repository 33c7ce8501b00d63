"""What a test needs of the machine, said by a marker: ``@needs("openvino:cpu")``, ``@needs("vnni")``.

A target stands for its runtime, which must run here (TensorRT for RTX must build). ``vnni`` stands for int8 arithmetic
that does not saturate, ``bf16`` for bfloat16 kernels of the CPU. A test that needs neither takes ``null:cpu``.
"""

import functools

import pytest

INSTRUCTIONS = ("vnni", "bf16")


def needs(*what: str) -> pytest.MarkDecorator:
    """Skip the test where one of these is not here."""
    return pytest.mark.needs(*what)


def local(target: str) -> object:
    """A target as a parameter of a test that needs it."""
    return pytest.param(target, marks=needs(target))


LOCAL = [local("onnxruntime:cpu"), local("openvino:cpu")]


@functools.cache
def lacking(what: str) -> str | None:
    """Why something that a test needs is not here; None where it is."""
    from dnexport.runtimes.registry import runtime_for
    from dnexport.spec.precision import Execution, Precision
    from dnexport.spec.target import Target

    target = Target.parse("openvino:cpu" if what in INSTRUCTIONS else what)
    runtime = runtime_for(target)
    found = runtime.builds(target) if target.runtime == "tensorrt-rtx" else runtime.runs(target)
    if not found.usable:
        return found.reason
    if what == "vnni" and runtime.execution(Precision.INT8, target) is Execution.INT8_SATURATING_F32:
        return "int8 saturates on this processor"
    if what == "bf16" and runtime.execution(Precision.FP16, target) is not Execution.BF16:
        return "this processor has no bfloat16 kernels"
    return None
