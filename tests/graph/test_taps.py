from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.data.images import input_from_pixels
from dnexport.graph.contract import apply, model_from_path
from dnexport.graph.insert_qdq import InsertQdq, quantization_points
from dnexport.graph.passes_for import canonical_passes, passes_for
from dnexport.graph.taps import tap_names
from dnexport.runtimes.onnxruntime import float_session
from dnexport.runtimes.taps import tapped
from dnexport.spec.archs import AnyArch
from dnexport.spec.precision import Precision
from dnexport.spec.quantization import Range
from dnexport.spec.target import Target
from tests.graph.test_insert_qdq import table
from tests.networks import FAMILY, TINY_PREPROCESS, tiny_pixels

TARGETS = ("onnxruntime:cpu", "openvino:cpu", "tensorrt")


def side(model: ir.Model, name: str) -> int:
    (value,) = [output for node in model.graph for output in node.outputs if output.name == name]
    return int(value.shape[2])


def test_a_densenet_is_cut_at_the_end_of_each_block(tiny_graph: Path) -> None:
    model = model_from_path(tiny_graph)
    names = tap_names(model, [model])
    assert [side(model, name) for name in names] == [16, 8, 1]
    ends = [next(n for n in model.graph if n.outputs[0].name == name).op_type for name in names]
    assert ends == ["Conv", "Relu", "ReduceMean"]  # the transition, the last norm, the pool


IMAGES = input_from_pixels(tiny_pixels(4).repeat(2, 1).repeat(2, 2), TINY_PREPROCESS)


@pytest.fixture(scope="module", params=sorted(FAMILY))
def exported(request: pytest.FixtureRequest, family_graph: Callable[[AnyArch], Path]) -> Path:
    return family_graph(FAMILY[request.param])


@pytest.mark.parametrize("precision", [Precision.FP16, Precision.INT8])
def test_taps_mean_the_same_in_every_lowered_graph(exported: Path, precision: Precision) -> None:
    def canonical() -> ir.Model:
        model = model_from_path(exported)
        apply(canonical_passes(), model)
        if precision is Precision.INT8:
            ranges = dict.fromkeys(quantization_points(model), Range(lo=-6, hi=6))
            apply((InsertQdq(table(ranges)),), model)
        return model

    lowered = []
    for name in TARGETS:
        model = canonical()
        apply(passes_for(precision, Target.parse(name)), model)
        lowered.append(model)
    names = tap_names(canonical(), lowered)
    assert len(names) >= 3

    def values(model: ir.Model) -> list[np.ndarray]:
        session = float_session(tapped(ir.to_proto(model).SerializeToString(), names))
        return session.run(names, {"input": IMAGES})

    expected = values(canonical())
    for target, model in zip(TARGETS, lowered, strict=True):
        for name, there, here in zip(names, expected, values(model), strict=True):
            noise = np.abs(here.astype(np.float32) - there).max() / np.abs(there).max()
            assert noise < (0.2 if precision is Precision.INT8 else 0.02), (target, name)
