import dataclasses
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from dnexport.data.images import input_from_pixels
from dnexport.deploy.validate import (
    CROSS_CHECK_FLOOR_DB,
    INT8_PARITY_FLOOR_DB,
    PARITY_FLOORS_DB,
    Samples,
    check_against,
    check_parity,
    validate_engine,
)
from dnexport.errors import ParityFailed
from dnexport.measure.accuracy import accuracy_from_logits
from dnexport.models.export import graph_logits
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.target import Target
from tests.measure.test_accuracy import logits
from tests.networks import TINY_PREPROCESS, tiny_pixels


def noisy(db: float) -> np.ndarray:
    return logits() + logits(seed=1) * np.float32(10 ** (-db / 20))


@pytest.mark.parametrize("floor", [*PARITY_FLOORS_DB.values(), INT8_PARITY_FLOOR_DB])
def test_each_floor_fails_below_and_passes_above(floor: float) -> None:
    check_parity("openvino:cpu", accuracy_from_logits(logits(), noisy(floor + 1), np.zeros(200, np.int64)), floor)
    below = accuracy_from_logits(logits(), noisy(floor - 1), np.zeros(200, np.int64))
    with pytest.raises(
        ParityFailed,
        match=rf"openvino:cpu answers at .* dB of PyTorch's logits where at least {floor:g} dB are expected",
    ):
        check_parity("openvino:cpu", below, floor)


def test_the_cross_check_names_both_runtimes() -> None:
    def exact() -> np.ndarray:
        return logits()

    good = check_against("openvino:cpu", noisy(CROSS_CHECK_FLOOR_DB + 1), "onnxruntime:cpu", logits(), exact)
    assert good.snr_db > CROSS_CHECK_FLOOR_DB
    assert good.own_snr_db is None, "the second run is not needed"
    message = r"openvino:cpu and onnxruntime:cpu disagree on the same INT8 graph: 3[34]\.\d dB where rounding alone leaves at least 35"
    with pytest.raises(ParityFailed, match=message):
        check_against("openvino:cpu", noisy(CROSS_CHECK_FLOOR_DB - 1), "onnxruntime:cpu", logits(), exact)


def test_where_rounding_alone_does_as_much_the_floor_follows_it() -> None:
    """A deep net of random weights: ONNX Runtime differs from itself by 25 dB."""

    def reordered() -> np.ndarray:
        return logits() + logits(seed=2) * np.float32(10 ** (-25 / 20))

    found = check_against("openvino:cpu", noisy(24), "onnxruntime:cpu", logits(), reordered)
    assert found.own_snr_db == pytest.approx(25, abs=0.5)
    assert found.floor_db == pytest.approx(22, abs=0.5)
    with pytest.raises(ParityFailed, match=r"2[01]\.\d dB where rounding alone leaves at least 2[12]"):
        check_against("openvino:cpu", noisy(20.5), "onnxruntime:cpu", logits(), reordered)


def test_int8_of_random_weights_is_judged_by_the_second_runtime_only(
    tiny_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = input_from_pixels(tiny_pixels(8), TINY_PREPROCESS)
    elsewhere = -graph_logits(tiny_graph, images)  # as far from the engine's as INT8 can come in a deep random net
    labels = np.full(8, -1)
    target = Target.parse("onnxruntime:cpu")
    untrained = Samples(lambda: [images], 8, elsewhere, labels, 4, trained=False)
    found = validate_engine(tiny_graph, tiny_graph, target, Precision.INT8, untrained, lambda *_: None)
    assert found.accuracy.snr_db < INT8_PARITY_FLOOR_DB
    trained = dataclasses.replace(untrained, trained=True)
    with pytest.raises(ParityFailed, match="where at least 6 dB are expected"):
        validate_engine(tiny_graph, tiny_graph, target, Precision.INT8, trained, lambda *_: None)
    with pytest.raises(ParityFailed, match="where at least 60 dB are expected"):
        validate_engine(tiny_graph, tiny_graph, target, Precision.FP32, untrained, lambda *_: None)


def test_a_real_engine_of_another_network_is_refused(tiny_graph: Path, tmp_path: Path) -> None:
    images = input_from_pixels(tiny_pixels(12), TINY_PREPROCESS)
    reference = graph_logits(tiny_graph, images)
    samples = Samples(lambda: [images[:5], images[5:]], 12, reference, np.full(12, -1), 4)
    engine = tmp_path / "model.onnx"
    shutil.copy(tiny_graph, engine)
    target = Target.parse("onnxruntime:cpu")
    done: list[tuple[int, int]] = []
    found = validate_engine(engine, engine, target, Precision.FP32, samples, lambda *step: done.append(step))
    assert found.accuracy.agreement == 1
    assert found.executed.execution is Execution.F32
    assert done == [(5, 12), (12, 12)]
    model = onnx.load(engine)
    weight = next(i for i in model.graph.initializer if i.name.endswith("conv1.weight"))
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
    onnx.save(model, engine)
    with pytest.raises(ParityFailed, match="try another target or version"):
        validate_engine(engine, engine, target, Precision.FP32, samples, lambda *_: None)
