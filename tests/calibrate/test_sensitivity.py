"""Budgets on a small network of random weights, whose layers differ in what they cost."""

from pathlib import Path

import numpy as np
import pytest

from dnexport.calibrate.calibrate import table_from_images
from dnexport.calibrate.quantize import quantize
from dnexport.calibrate.sensitivity import Tuning, plan_from_path, plan_within_budget, plan_without_budget
from dnexport.data.datasets import synthetic
from dnexport.data.images import input_from_pixels
from dnexport.errors import BudgetFailed, DataError
from dnexport.graph.contract import model_from_path
from dnexport.measure.accuracy import snr_db
from dnexport.runtimes.onnxruntime import float_session
from dnexport.spec.progress import Silent
from dnexport.spec.quantization import CalibrationSet, CalibrationTable, Quantization
from tests.networks import TINY_PREPROCESS, tiny_pixels

PLAIN = {"rounding": "nearest", "correct_bias": False}


@pytest.fixture
def table(tiny_graph: Path) -> CalibrationTable:
    return table_from_images(tiny_graph, synthetic(12, TINY_PREPROCESS), TINY_PREPROCESS, CalibrationSet(), Silent())


@pytest.fixture
def tuning() -> Tuning:
    images = input_from_pixels(tiny_pixels(24, seed=6), TINY_PREPROCESS)
    return Tuning(images, np.full(24, -1))


def logits(
    graph: Path, table: CalibrationTable, options: Quantization, kept: frozenset[str] | None, images: np.ndarray
) -> np.ndarray:
    import onnx_ir as ir

    model = model_from_path(graph)
    if kept is not None:
        quantize(model, table, options, {}, kept)
    return np.asarray(float_session(ir.to_proto(model).SerializeToString()).run(None, {"input": images})[0])


def snr(graph: Path, table: CalibrationTable, options: Quantization, kept: frozenset[str], images: np.ndarray) -> float:
    found = snr_db(logits(graph, table, options, None, images), logits(graph, table, options, kept, images))
    return np.inf if found is None else found


def test_the_fewest_layers_go_back_that_a_bisection_finds(
    tiny_graph: Path, table: CalibrationTable, tuning: Tuning
) -> None:
    whole = snr(tiny_graph, table, Quantization(**PLAIN), frozenset(), tuning.images)
    options = Quantization(min_snr=whole + 4, **PLAIN)
    plan = plan_within_budget(tiny_graph, table, options, {}, tuning, lambda *_: None)
    assert 0 < len(plan.kept) < len(plan.layers)
    assert snr(tiny_graph, table, options, plan.kept, tuning.images) >= whole + 4
    costs = {layer.layer: layer.snr_db for layer in plan.layers}
    assert max(costs[name] for name in plan.kept) <= min(costs[name] for name in costs if name not in plan.kept)
    one_less = plan.kept - {max(plan.kept, key=lambda name: costs[name])}
    assert snr(tiny_graph, table, options, one_less, tuning.images) < whole + 4
    assert all("alone in int8 it leaves" in layer.why for layer in plan.layers if layer.precision == "float")


def test_a_budget_that_holds_anyway_keeps_all_in_int8(
    tiny_graph: Path, table: CalibrationTable, tuning: Tuning
) -> None:
    plan = plan_within_budget(tiny_graph, table, Quantization(min_snr=1, **PLAIN), {}, tuning, lambda *_: None)
    assert not plan.kept
    assert [layer.layer for layer in plan.layers] == [
        layer.layer for layer in plan_without_budget(tiny_graph, table, Quantization()).layers
    ]


def test_a_budget_that_cannot_be_met_names_the_closest(
    tiny_graph: Path, table: CalibrationTable, tuning: Tuning
) -> None:
    options = Quantization(min_snr=190, **PLAIN)
    with pytest.raises(
        BudgetFailed,
        match=r"the budget \(at least 190 dB\) is not met even with .* alone in int8: \d+\.\d dB, .* on 24 tuning images; ask for less",
    ) as caught:
        plan_within_budget(tiny_graph, table, options, {}, tuning, lambda *_: None)
    assert caught.value.exit_code == 6


def test_a_loss_of_top1_is_counted_on_labels(tiny_graph: Path, table: CalibrationTable, tuning: Tuning) -> None:
    answers = logits(tiny_graph, table, Quantization(), None, tuning.images).argmax(axis=1)
    right = Tuning(tuning.images, answers)
    plan = plan_within_budget(tiny_graph, table, Quantization(max_drop=0, **PLAIN), {}, right, lambda *_: None)
    after = logits(tiny_graph, table, Quantization(**PLAIN), plan.kept, tuning.images).argmax(axis=1)
    assert (after == answers).all()


def test_a_loss_of_top1_needs_labels(tiny_graph: Path, table: CalibrationTable, tuning: Tuning) -> None:
    with pytest.raises(DataError, match="max_drop counts right answers, and the tuning images have no labels"):
        plan_within_budget(tiny_graph, table, Quantization(max_drop=1, **PLAIN), {}, tuning, lambda *_: None)


def test_a_plan_is_a_file_that_can_be_edited(tiny_graph: Path, table: CalibrationTable, tmp_path: Path) -> None:
    plan = plan_without_budget(tiny_graph, table, Quantization())
    path = tmp_path / "plan.json"
    path.write_text(plan.model_dump_json().replace('"int8"', '"float"', 1))
    assert plan_from_path(path, tiny_graph, table, "activation").kept == {plan.layers[0].layer}
    path.write_text(plan.model_dump_json().replace(plan.layers[1].layer, "nowhere"))
    with pytest.raises(DataError, match="names the layer 'nowhere', which is not there; remove it"):
        plan_from_path(path, tiny_graph, table, "activation")
    path.write_text(plan.model_copy(update={"graph_digest": "0" * 64}).model_dump_json())
    with pytest.raises(DataError, match="is of graph 000000000000, this graph is"):
        plan_from_path(path, tiny_graph, table, "activation")
    path.write_text("{}")
    with pytest.raises(DataError, match=r"plan\.json is not a plan"):
        plan_from_path(path, tiny_graph, table, "activation")
    with pytest.raises(ValueError, match="a plan says already which layers stay in float"):
        Quantization(plan="p.json", min_snr=3)
