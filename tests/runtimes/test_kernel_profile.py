from typing import Any

import numpy as np
import pytest

from dnexport.errors import BadInput
from dnexport.runtimes.contract import SessionOptions
from dnexport.runtimes.kernel_profile import PROFILED, WARM_UP, known_name, openvino_times, own_times
from dnexport.runtimes.onnxruntime import OnnxRuntime
from dnexport.spec.precision import Execution
from dnexport.spec.target import Target

# Microseconds of two kernels by query: the first queries are slow, one later query is disturbed.
TIMES = [(900, 400), (90, 40), *[(30, 10)] * (PROFILED - 1), (500, 10)]


def own_events() -> list[dict[str, Any]]:
    events, now = [], 0
    for first, second in TIMES:
        events.append({"name": "model_run", "ts": now, "dur": first + second, "args": {}})
        events.append({"name": "conv_kernel_time", "ts": now, "dur": first, "args": {}})
        events.append({"name": "pool_kernel_time", "ts": now + first + 3, "dur": second, "args": {}})
        now += first + second + 100
    return events[::-1]


def openvino_events() -> list[dict[str, Any]]:
    """As plug-in 1.8 tells them: a kernel's duration is its mean over all queries so far, its start is true."""
    events, now = [], 0
    for query, (first, second) in enumerate(TIMES):
        means = [sum(each[kernel] for each in TIMES[: query + 1]) / (query + 1) for kernel in (0, 1)]
        args = {"ov_exec_type": "jit_f32", "ort_correlation_id": str(query)}
        events.append({"name": "OV::conv", "ts": now, "dur": means[0], "args": args})
        events.append({"name": "OV::logits", "ts": now + first, "dur": means[1], "args": args})
        now += first + second + 100
    return [{"name": "model_run", "ts": 0, "dur": now, "args": {}}, *events]


def test_the_median_of_each_kernel_without_the_first_queries() -> None:
    assert len(TIMES) == WARM_UP + PROFILED
    assert own_times(own_events()) == ((("conv",), 0.030), (("pool",), 0.010))


def test_openvino_s_means_over_all_queries_are_not_taken_for_times() -> None:
    (conv, conv_ms), (last, last_ms) = openvino_times(openvino_events())
    assert (conv, last) == (("conv",), ("logits",))
    assert conv_ms == pytest.approx(0.030)
    assert last_ms == pytest.approx(0.010)


@pytest.mark.parametrize(
    ("told", "known"),
    [
        ("relu_1", "relu_1"),
        ("relu_nchwc", "relu"),
        ("relu_bn_nchwc", "relu"),
        ("relu_1_token_12", "relu_1"),
        ("relu_1/duplicated", "relu_1"),
        ("/block/conv/WithoutBiases", "/block/conv"),
        ("relu_12", None),
        ("Multiply_1", None),
        ("/block", None),
        ("", None),
    ],
)
def test_a_kernel_s_name_is_that_of_a_node_with_parts_appended(told: str, known: str | None) -> None:
    assert known_name(told, {"relu", "relu_1", "/block/conv"}) == known


def test_images_that_the_engine_does_not_take_are_not_profiled(tiny_graph: Any) -> None:
    session = OnnxRuntime().load(tiny_graph, Target.parse("onnxruntime:cpu"), SessionOptions(Execution.F32, 1))
    with pytest.raises(BadInput):
        session.kernel_times(np.zeros((1, 3, 8, 8), np.float32))
