"""Placements of Q/DQ, from recipe to bundle."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.build.document import document_from_bundle
from dnexport.build.pipeline import build
from dnexport.build.placement import choice
from dnexport.bundle.verify import Bundle
from dnexport.errors import BudgetFailed, RecipeError, TargetUnavailable
from dnexport.graph.contract import model_from_path
from dnexport.graph.dense_blocks import dense_blocks
from dnexport.measure.accuracy import snr_db
from dnexport.runtimes.openvino import OpenVino
from dnexport.spec.latency import Benchmark, Latency, Ratio, Reference
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.progress import Silent
from dnexport.spec.quantization import QuantizationPlan, Trial
from dnexport.spec.recipe import Recipe, recipe_from_values
from dnexport.spec.target import Target
from tests.needs import needs

RTX, NULL = "tensorrt-rtx:sm86", "null:cpu"


def recipe(targets: list[str], **quantization: object) -> Recipe:
    values = {
        "name": "r",
        "arch": "densenet(blocks=2-2,k=8,stem=cifar,init=8,classes=10,channels=1)",
        "weights": "random",
        "data": "digits",
        "precision": "int8",
        "targets": targets,
        "calibration": {"count": 32},
        "quantization": {"rounding": "nearest", **quantization},
        "bench": {"restarts": 2, "rounds": 1, "block_s": 0.01},
    }
    return recipe_from_values(values, "test")


def ratio(low: float | None) -> Ratio:
    return Ratio(value=1.2, low=low, high=None if low is None else 1.5, starts=((1.2,), (1.2,)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("placement")


@pytest.fixture(scope="module")
def state(folder: Path) -> Bundle:
    return build(recipe([NULL, RTX], placement="state"), folder / "state", Silent(), bench=False).bundle


def test_the_state_is_int8_in_the_graph_and_on_each_runtime(state: Bundle) -> None:
    model = model_from_path(state.path / "model.onnx")
    held = [value.producer() for block in dense_blocks(model) for value in block.states]
    assert {_type(node) for node in held} == {"DequantizeLinear"}
    assert state.reports[NULL].status == "validated"
    plan = QuantizationPlan.model_validate_json((state.path / "plan.json").read_bytes())
    assert plan.placement == state.manifest.calibration.placement == "state"
    assert plan.kept == frozenset()
    (pool,) = (node for node in model.graph if node.op_type == "AveragePool")
    assert _type(pool.inputs[0].producer()) == "DequantizeLinear"
    assert {block.name for block in dense_blocks(model)} <= {layer.layer for layer in plan.layers}
    assert "Placement state" in (state.path / "report.html").read_text()


@needs("tensorrt-rtx")
def test_a_plan_is_built_of_the_state(state: Bundle) -> None:
    assert state.reports[RTX].status == "built"


@pytest.mark.instructions
@needs("openvino:cpu", "vnni")
def test_what_surrounds_int8_is_bf16_where_that_is_allowed(folder: Path) -> None:
    """Asked for or not, and as this machine can: in what is measured, and in the user's own session."""
    asked = recipe(["openvino:cpu"], placement="state")
    allowed = asked.model_copy(update={"allow_execution": ("bf16",)})
    found = build(allowed, folder / "bf16", Silent(), bench=False).bundle
    without = build(asked, folder / "f32", Silent(), bench=False).bundle
    offered = OpenVino().execution(Precision.INT8, Target.parse("openvino:cpu"), ("bf16",))
    assert found.reports["openvino:cpu"].executed_precision is offered
    assert without.reports["openvino:cpu"].executed_precision is Execution.INT8_F32
    images = found.golden().images[:8]
    with found.session() as mixed, without.session() as plain:
        differ = not np.array_equal(mixed(images), plain(images))
        assert differ == (offered is Execution.INT8_BF16)
        assert snr_db(plain(images), mixed(images)) > 10


def _type(node: ir.Node | None) -> str:
    return node.op_type if node is not None else ""


def test_auto_measures_both_and_says_what_it_found(folder: Path) -> None:
    wanted = recipe([NULL], placement="auto", min_snr=5)
    first = build(wanted, folder / "auto", Silent(), bench=False).bundle
    plan = QuantizationPlan.model_validate_json((first.path / "plan.json").read_bytes())
    assert [trial.placement for trial in plan.trials] == ["activation", "state"]
    assert all(trial.snr_db is not None and trial.snr_db >= 5 for trial in plan.trials)
    assert plan.trials[1].times_faster.starts[0][0] > 0
    assert plan.measured_on == NULL
    assert plan.placement == choice(plan.trials)
    again = build(wanted, folder / "auto", Silent(), bench=False).bundle
    assert all(run.reused for run in again.manifest.stages.values())


def test_int8_stands_beside_the_float_engine_of_its_runtime(folder: Path) -> None:
    bundle = build(recipe([NULL], placement="activation"), folder / "beside", Silent()).bundle
    benchmark = bundle.reports[NULL].benchmark
    assert benchmark.float_engine.form == "fp32"
    assert len(benchmark.over_float.starts) == 2
    assert benchmark.against_float.startswith("INT8 is ")
    assert document_from_bundle(bundle)["targets"][NULL]["speedup"]["float_engine"] == benchmark.over_float.value
    assert "float engine of the same runtime" in (bundle.path / "report.html").read_text()
    assert '"over_float"' in (bundle.path / "report.json").read_text()
    again = build(recipe([NULL], placement="activation"), folder / "beside", Silent(), bench=False).bundle
    assert again.reports[NULL].benchmark is None


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.8, 0.9, "INT8 is 18% slower than FP32 on the same runtime here: do not use it for speed"),
        (0.9, 1.1, "INT8 is not measurably faster than FP32 on the same runtime here (0.85× (0.90 to 1.10)): do not"),
        (1.5, 2.5, "INT8 is 0.85× (1.50 to 2.50) faster than FP32 on the same runtime here"),
        (None, None, "INT8 is not measurably faster"),
    ],
)
def test_int8_that_does_not_pay_is_said_by_the_interval(low: float | None, high: float | None, words: str) -> None:
    latency = Latency(
        batch=1, threads=1, samples_ms=(1.0,), sets=(1,), p50_ms=1.0, p90_ms=None, p99_ms=None, p90_bound_ms=None,
        p99_bound_ms=None, images_per_second=1000.0, warm_up_queries=0,
    )  # fmt: skip
    found = Benchmark(
        latency=latency,
        float_engine=Reference(form="fp32", latency=latency),
        over_float=Ratio(value=0.85, low=low, high=high, starts=((0.85,),)),
    )
    assert found.against_float.startswith(words)
    assert Benchmark(latency=latency).against_float is None


def test_auto_goes_on_with_the_one_that_meets_the_budget(folder: Path) -> None:
    """Holding states in int8 costs more than this budget allows, so that none of them is left in int8."""
    wanted = recipe([NULL], placement="auto", min_snr=60)
    with pytest.raises(BudgetFailed, match="at least 60 dB"):
        build(wanted, folder / "none", Silent(), bench=False)


def test_the_state_is_chosen_only_where_its_interval_is_faster() -> None:
    activation, refused = Trial(placement="activation", snr_db=40), Trial(placement="activation", refused="too much")
    state = Trial(placement="state", snr_db=35)
    assert choice([activation, state.model_copy(update={"times_faster": ratio(1.01)})]) == "state"
    assert choice([activation, state.model_copy(update={"times_faster": ratio(0.99)})]) == "activation"
    assert choice([activation, state.model_copy(update={"times_faster": ratio(None)})]) == "activation"
    assert choice([activation, Trial(placement="state", refused="too much")]) == "activation"
    assert choice([refused, state]) == "state"


def test_what_auto_cannot_do_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match="placement auto keeps the faster that meets a budget; add min_snr"):
        recipe([NULL], placement="auto")
    with pytest.raises(TargetUnavailable, match="placement auto measures on a target that runs here, and none does"):
        build(recipe([RTX], placement="auto", min_snr=5), folder / "elsewhere", Silent(), bench=False)


def test_a_plan_of_another_placement_is_refused(state: Bundle, folder: Path) -> None:
    wanted = recipe([NULL], plan=str(state.path / "plan.json"))
    with pytest.raises(
        Exception, match="is of placement state, and activation is asked for; build with --placement state"
    ):
        build(wanted, folder / "planned", Silent(), bench=False)
    again = recipe([NULL], plan=str(state.path / "plan.json"), placement="state")
    assert build(again, folder / "planned", Silent(), bench=False).bundle.manifest.calibration.placement == "state"
