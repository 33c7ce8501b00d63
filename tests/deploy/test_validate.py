import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from dnexport.cli.render import accuracy_notes
from dnexport.data.images import input_from_pixels
from dnexport.deploy.engine import Engine
from dnexport.deploy.validate import (
    CROSS_CHECK_FLOOR_DB,
    INT8_PARITY_FLOOR_DB,
    PARITY_FLOORS_DB,
    Samples,
    check_against,
    check_parity,
    compared,
    engine_logits,
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


def far(db: float, seed: int) -> np.ndarray:
    return logits() + logits(seed=seed) * np.float32(10 ** (-db / 20))


def test_the_cross_check_names_both_runtimes() -> None:
    """The second runtime is at 40 dB of PyTorch; the first agrees with it, or is off on its own."""
    other = far(40, 2)
    good = check_against("openvino:cpu", other + logits(seed=3) * np.float32(0.01), "onnxruntime:cpu", other, logits())
    assert good.snr_db > CROSS_CHECK_FLOOR_DB
    message = (
        r"openvino:cpu and onnxruntime:cpu disagree on the same INT8 graph: 3[0-4]\.\d dB between them, and 3[0-4]\.\d dB and"
        r" (39|40)\.\d dB to PyTorch; openvino:cpu miscomputes it"
    )
    with pytest.raises(ParityFailed, match=message):
        check_against("openvino:cpu", far(34, 3), "onnxruntime:cpu", other, logits())


def test_two_right_answers_may_be_apart_where_both_are_equally_near_to_pytorch() -> None:
    """A deep net: both INT8 results are at 20 dB, with noises of their own."""
    found = check_against("openvino:cpu", far(20, 3), "onnxruntime:cpu", far(20, 2), logits())
    assert found.snr_db < 20
    assert found.other_snr_db == pytest.approx(20, abs=0.5)
    with pytest.raises(ParityFailed, match=r"1[67]\.\d dB and (19|20)\.\d dB to PyTorch"):
        check_against("openvino:cpu", far(16.5, 3), "onnxruntime:cpu", far(20, 2), logits())


def test_int8_of_random_weights_is_judged_by_the_second_runtime_only(
    tiny_graph: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = input_from_pixels(tiny_pixels(8), TINY_PREPROCESS)
    elsewhere = -graph_logits(tiny_graph, images)  # as far from the engine's as INT8 can come in a deep random net
    labels = np.full(8, -1)
    target = Target.parse("onnxruntime:cpu")
    untrained = Samples(lambda _: [images], 8, elsewhere, labels, 4, trained=False)
    found = validate_engine(Engine(target, tiny_graph, Precision.INT8), tiny_graph, untrained, lambda *_: None)
    assert found.accuracy.snr_db < INT8_PARITY_FLOOR_DB
    trained = dataclasses.replace(untrained, trained=True)
    with pytest.raises(ParityFailed, match="where at least 6 dB are expected"):
        validate_engine(Engine(target, tiny_graph, Precision.INT8), tiny_graph, trained, lambda *_: None)
    with pytest.raises(ParityFailed, match="where at least 60 dB are expected"):
        validate_engine(Engine(target, tiny_graph, Precision.FP32), tiny_graph, untrained, lambda *_: None)


@pytest.mark.alone
def test_the_share_of_the_time_that_the_engine_waited(tiny_graph: Path) -> None:
    images = input_from_pixels(tiny_pixels(4), TINY_PREPROCESS)
    reference = graph_logits(tiny_graph, images)

    def slow(_: str) -> Iterator[np.ndarray]:
        for start in range(0, 4, 2):
            time.sleep(0.5)
            yield images[start : start + 2]

    engine = Engine(Target.parse("onnxruntime:cpu"), tiny_graph, Precision.FP32)
    files = Samples(slow, 4, reference, np.full(4, -1), 4, at_hand=False)
    answered = engine_logits(engine, files, lambda *_: None)
    assert 0.8 < answered.waited_share < 1
    found = compared(files, answered)
    assert found.waited_share == answered.waited_share
    (note,) = accuracy_notes(found)
    assert note == f"the engine waited for decoded images during {found.waited_share:.0%} of its time"
    assert accuracy_notes(found.model_copy(update={"waited_share": 0.1})) == []
    at_hand = dataclasses.replace(files, at_hand=True)
    assert compared(at_hand, engine_logits(engine, at_hand, lambda *_: None)).waited_share is None


def test_a_real_engine_of_another_network_is_refused(tiny_graph: Path, tmp_path: Path) -> None:
    images = input_from_pixels(tiny_pixels(12), TINY_PREPROCESS)
    reference = graph_logits(tiny_graph, images)
    samples = Samples(lambda _: [images[:5], images[5:]], 12, reference, np.full(12, -1), 4)
    engine = tmp_path / "model.onnx"
    shutil.copy(tiny_graph, engine)
    target = Target.parse("onnxruntime:cpu")
    done: list[tuple[int, int]] = []
    found = validate_engine(Engine(target, engine, Precision.FP32), engine, samples, lambda *step: done.append(step))
    assert found.accuracy.agreement == 1
    assert found.executed.execution is Execution.F32
    assert done == [(5, 12), (12, 12)]
    model = onnx.load(engine)
    weight = next(i for i in model.graph.initializer if i.name.endswith("conv1.weight"))
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.5), weight.name))
    onnx.save(model, engine)
    with pytest.raises(ParityFailed, match="try another target or version"):
        validate_engine(Engine(target, engine, Precision.FP32), engine, samples, lambda *_: None)
