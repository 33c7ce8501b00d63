from typing import Any

import numpy as np
import pytest

from dnexport.errors import BadInput
from dnexport.runtimes.contract import SessionOptions
from dnexport.runtimes.kernel_profile import PROFILED, WARM_UP, known_name
from dnexport.runtimes.onnxruntime import OnnxRuntime, times_from_events
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


def test_the_median_of_each_kernel_without_the_first_queries() -> None:
    assert len(TIMES) == WARM_UP + PROFILED
    assert times_from_events(own_events()) == ((("conv",), 0.030), (("pool",), 0.010))


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
