"""INT8 on a processor that adds int8 products in 16 bits: detected, judged, stated, and never unasked."""

from pathlib import Path

import pytest

from dnexport.build.pipeline import build
from dnexport.bundle.verify import Bundle
from dnexport.deploy.check import judged
from dnexport.deploy.native import compile_bundle
from dnexport.errors import TargetUnavailable
from dnexport.runtimes.null import Null
from dnexport.runtimes.openvino import OpenVino
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import Recipe, recipe_from_values
from dnexport.spec.target import Target
from tests.needs import lacking, needs

NULL = "null:cpu"
SATURATING = Execution.INT8_SATURATING_F32


def recipe(*targets: str, **values: object) -> Recipe:
    fields = {
        "name": "eight",
        "arch": "densenet(blocks=2-2,k=8,stem=cifar,init=8,classes=10,channels=1)",
        "weights": "random",
        "data": "digits",
        "precision": "int8",
        "targets": targets,
        "calibration": {"count": 32},
        "quantization": {"rounding": "nearest", "correct_bias": False},
    }
    return recipe_from_values({**fields, **values}, "test")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Built where int8 is exact."""
    return build(recipe(NULL), tmp_path_factory.mktemp("eight") / "b", Silent(), bench=False).bundle


@pytest.fixture
def saturates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Null, "execution", lambda *_: SATURATING)


def test_a_device_that_saturates_is_not_given_what_was_measured_without(bundle: Bundle, saturates: None) -> None:
    found = judged(bundle, NULL)
    assert found.verdict == "never"
    assert "since this processor adds pairs of int8 products in 16 bits, which saturate" in found.reason
    assert found.remedy.startswith("build the bundle again: say --allow-execution int8-saturating")
    with pytest.raises(
        TargetUnavailable, match=r"would execute int8 as int8-saturating\+f32, since this processor adds"
    ):
        compile_bundle(bundle, NULL, Silent())
    with pytest.raises(TargetUnavailable, match=r"no engine of bundle .* runs here \(null:cpu: int8 saturates: this"):
        bundle.session()


def test_what_was_allowed_or_measured_so_runs(bundle: Bundle, saturates: None) -> None:
    golden = bundle.golden().images[:2]
    manifest = bundle.manifest
    allowed = manifest.recipe.model_copy(update={"allow_execution": ("int8-saturating",)})
    measured = bundle.reports[NULL].model_copy(update={"executed_precision": SATURATING})
    for changed in (
        Bundle(bundle.path, manifest.model_copy(update={"recipe": allowed}), bundle.reports, bundle.digest),
        Bundle(bundle.path, manifest, {NULL: measured}, bundle.digest),
    ):
        assert judged(changed, NULL).verdict == "load"
        with changed.session() as session:
            assert session(golden).shape == (2, 10)


def test_a_prepared_target_that_would_saturate_is_refused_before_it_is_compiled(
    bundle: Bundle, saturates: None
) -> None:
    prepared = bundle.reports[NULL].model_copy(update={"status": "prepared", "file": None})
    found = judged(Bundle(bundle.path, bundle.manifest, {NULL: prepared}, bundle.digest), NULL)
    assert found.verdict == "never"
    assert found.remedy.startswith("build the bundle again: say --allow-execution int8-saturating")


def test_a_companion_is_measured_again_on_the_device(bundle: Bundle, saturates: None) -> None:
    companion = bundle.reports[NULL].model_copy(update={"companion": True})
    found = judged(Bundle(bundle.path, bundle.manifest, {NULL: companion}, bundle.digest), NULL)
    assert (found.verdict, found.remedy) == ("rebuild", f"dnexport compile {bundle.path} --target null:cpu")
    assert found.reason.startswith("int8 saturates: this processor adds pairs")


@pytest.mark.instructions
@needs("openvino:cpu")
def test_openvino_is_held_to_what_it_executes(tmp_path: Path) -> None:
    """On any processor: it is built as what was allowed, judged by its floor, and says what it is."""
    target = Target.parse("openvino:cpu")
    offered = OpenVino().execution(Precision.INT8, target)
    wanted = recipe("openvino:cpu", allow_execution=("int8-saturating",))
    report = build(wanted, tmp_path / "b", Silent(), bench=False).bundle.reports["openvino:cpu"]
    assert report.executed_precision is offered
    assert (offered is SATURATING) == (lacking("vnni") is not None)
    assert any("saturates" in note for note in report.notes) == (offered is SATURATING)
    assert report.cross_check is not None
    if offered is SATURATING:
        refused = Bundle.open(tmp_path / "b")
        unsaid = refused.manifest.recipe.model_copy(update={"allow_execution": ()})
        changed = Bundle(refused.path, refused.manifest.model_copy(update={"recipe": unsaid}), refused.reports)
        with pytest.raises(TargetUnavailable, match="would execute int8 as int8-saturating"):
            compile_bundle(changed, "openvino:cpu", Silent())
