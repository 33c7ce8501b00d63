"""The first thing on a device: what can be used here, and does it still answer."""

import dataclasses
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from dnexport.build.pipeline import build
from dnexport.bundle.pack import write_manifest
from dnexport.bundle.verify import Bundle
from dnexport.deploy.check import _floor, check_bundle, judged
from dnexport.deploy.engine import engine_from_bundle
from dnexport.deploy.validate import parity_floor
from dnexport.errors import UsageError
from dnexport.runtimes.arrays import whole_batches
from dnexport.runtimes.null import Null
from dnexport.spec.precision import Execution
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import recipe_from_values
from dnexport.spec.target import Target
from tests.needs import local, needs

RTX, NULL = "tensorrt-rtx:sm86", "null:cpu"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    values = {
        "name": "checked",
        "arch": "densenet(blocks=2-2,k=8,stem=cifar,init=8,classes=10)",
        "weights": "random",
        "precision": "fp16",
        "allow_execution": ["bf16", "f32"],
        "targets": ["openvino:cpu", RTX, "tensorrt", NULL],
        "batch": "1..1..4",
    }
    recipe = recipe_from_values(values, "test")
    return build(recipe, tmp_path_factory.mktemp("check") / "b", Silent(), bench=False).bundle


def copied(bundle: Bundle, folder: Path) -> Path:
    shutil.copytree(bundle.path, folder)
    return folder


def test_each_target_has_a_verdict_and_a_reason(bundle: Bundle) -> None:
    _, rtx, tensorrt, null = check_bundle(bundle, None, Silent())
    assert (rtx.verdict, tensorrt.verdict, null.verdict) == ("never", "never", "load")
    assert rtx.reason == tensorrt.reason == "no NVIDIA GPU is here"
    assert null.usable
    assert null.self_test.batches == (1, 4)
    assert null.self_test.samples == 8
    assert not rtx.usable
    with pytest.raises(UsageError, match="has no target 'onnxruntime:cpu'"):
        check_bundle(bundle, "onnxruntime:cpu", Silent())


@needs("openvino:cpu")
def test_openvino_answers_golden_samples_at_both_batches(bundle: Bundle) -> None:
    (checked,) = check_bundle(bundle, "openvino:cpu", Silent())
    assert checked.usable
    assert checked.self_test.batches == (1, 4)


@pytest.mark.parametrize("target", [local("openvino:cpu"), NULL])
@pytest.mark.parametrize(
    ("weight", "words"),
    [
        ("features.denseblock1.denselayer1.conv2.weight", r"it goes wrong between the input and at \S+ \("),
        ("features.denseblock2.denselayer1.conv2.weight", r"it goes wrong after \S+ and at \S+ \("),
        ("classifier.weight", r"it is right up to mean: what follows goes wrong, or only without taps"),
    ],
)
def test_an_engine_that_computes_something_else_fails_and_says_where(
    bundle: Bundle, tmp_path: Path, weight: str, words: str, target: str
) -> None:
    """A weight is damaged; the digests are those of the damaged file."""
    path = copied(bundle, tmp_path / "damaged")
    engine = path / "targets" / Target.parse(target).slug / "model.onnx"
    model = onnx.load(engine)
    (found,) = [each for each in model.graph.initializer if each.name == weight]
    found.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(found) * np.float32(-2), found.name))
    onnx.save(model, engine)
    write_manifest(path, bundle.manifest)
    (checked,) = check_bundle(Bundle.open(path), target, Silent())
    assert checked.verdict == "load"
    assert not checked.self_test.passed
    assert checked.self_test.snr_db < checked.self_test.floor_db
    assert re.match(words, checked.self_test.diverges), checked.self_test.diverges
    assert [tap.name for tap in checked.self_test.taps] == list(bundle.taps())


@needs("tensorrt-rtx")
def test_what_must_be_built_here_says_how(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    from dnexport.runtimes.contract import Availability
    from dnexport.runtimes.tensorrt import TensorRT

    monkeypatch.setattr(TensorRT, "runs", lambda *_: Availability(True, "tensorrt 10.9"))
    prepared = judged(bundle, "tensorrt")
    assert (prepared.verdict, prepared.reason) == ("rebuild", "it is prepared, not built")
    assert prepared.remedy == f"dnexport compile {bundle.path} --target tensorrt"
    assert judged(bundle, RTX).verdict == "load"
    monkeypatch.setattr("dnexport.deploy.check.package_versions", lambda: {"tensorrt-rtx": "99"})
    other = judged(bundle, RTX)
    assert other.verdict == "rebuild"
    assert "here is 99" in other.reason


@needs("tensorrt-rtx")
def test_a_plan_of_another_gpu_is_built_again_and_an_older_driver_said(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plan of TensorRT that was built on an A100; what stands for it here is the RTX plan's file."""
    from dnexport.runtimes.contract import Availability
    from dnexport.runtimes.tensorrt import TensorRT

    there = {"gpu": "A100", "capability": "sm80", "driver": "580.65"}
    report = bundle.reports[RTX].model_copy(
        update={"target": "tensorrt", "built_with": {"tensorrt": "11.4.1", **there}}
    )
    native = dataclasses.replace(bundle, reports={"tensorrt": report})
    monkeypatch.setattr(TensorRT, "runs", lambda *_: Availability(True, "tensorrt 11.4.1"))
    monkeypatch.setattr("dnexport.deploy.check.package_versions", lambda: {"tensorrt": "11.4.1"})
    monkeypatch.setattr("dnexport.deploy.check.gpu_identity", lambda: {**there, "capability": "sm87"})
    other = judged(native, "tensorrt")
    assert (other.verdict, other.reason) == ("rebuild", "the plan is of a GPU of sm80 (A100), here is sm87")
    monkeypatch.setattr("dnexport.deploy.check.gpu_identity", lambda: {**there, "driver": "535.183"})
    older = judged(native, "tensorrt")
    assert older.verdict == "load"
    assert older.warnings == ("the driver 535.183 is older than 580.65, with which the engine was built",)


@needs("tensorrt-rtx")
@pytest.mark.parametrize("gpu", [{"gpu": "Orin (nvgpu)", "capability": "sm87"}, {"gpu": "Orin (nvgpu)"}])
def test_on_orin_a_version_is_named_with_its_jetpack(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, gpu: dict[str, str]
) -> None:
    """JetPack 7.2 on a board whose plan was built under JetPack 6; what stands for the plan is the RTX plan's file."""
    from dnexport.runtimes.contract import Availability
    from dnexport.runtimes.tensorrt import TensorRT

    monkeypatch.setattr(TensorRT, "runs", lambda *_: Availability(True, "tensorrt 10.16.2.10"))
    monkeypatch.setattr("dnexport.deploy.check.package_versions", lambda: {"tensorrt": "10.16.2.10"})
    monkeypatch.setattr("dnexport.deploy.check.gpu_identity", lambda: gpu)
    prepared = judged(bundle, "tensorrt")
    assert (prepared.verdict, prepared.remedy) == ("rebuild", f"dnexport compile {bundle.path} --target tensorrt")
    assert prepared.reason == ("it is prepared, not built; TensorRT 10.16.2.10 (JetPack 7.2) builds it on this board")
    built_with = {"tensorrt": "10.3.0", **gpu}
    report = bundle.reports[RTX].model_copy(update={"target": "tensorrt", "built_with": built_with})
    older = judged(dataclasses.replace(bundle, reports={"tensorrt": report}), "tensorrt")
    assert older.verdict == "rebuild"
    assert older.reason == ("the plan is of tensorrt 10.3.0 (JetPack 6.1 and 6.2), here is 10.16.2.10 (JetPack 7.2)")


@needs("tensorrt-rtx")
def test_a_plan_whose_header_is_damaged_is_built_again(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dnexport.runtimes.contract import Availability
    from dnexport.runtimes.tensorrt import TensorRT

    path = copied(bundle, tmp_path / "cut")
    plan = path / "targets" / "tensorrt-rtx-sm86" / "engine.plan"
    plan.write_bytes(plan.read_bytes()[:20])
    write_manifest(path, bundle.manifest)
    monkeypatch.setattr(TensorRT, "runs", lambda *_: Availability(True, "tensorrt_rtx"))
    checked = judged(Bundle.open(path), RTX)
    assert (checked.verdict, checked.reason) == ("rebuild", "the file is damaged")


def test_too_little_memory_is_said_before_anything_is_loaded(bundle: Bundle) -> None:
    assert judged(bundle, NULL, free_bytes=1000).reason.startswith("0 MB of memory are free, and about ")
    assert judged(bundle, NULL, free_bytes=1 << 30).verdict == "load"


def test_the_command_speaks_json_and_has_exit_codes(
    bundle: Bundle, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = run_cli("check", str(bundle.path), "--json", cwd=bundle.path.parent)
    assert done.returncode == 0
    assert json.loads(done.stdout)[NULL]["self_test"]["passed"]
    done = run_cli("check", str(bundle.path), "--target", RTX, cwd=bundle.path.parent)
    assert done.returncode == 4
    assert "no NVIDIA GPU is here" in done.stdout


def test_samples_fill_the_largest_batch() -> None:
    images = np.arange(8, dtype=np.float32).reshape(8, 1, 1, 1)
    assert len(whole_batches(images, 64)) == 64
    assert (whole_batches(images, 3)[:8] == images).all()


def test_the_floor_is_of_the_arithmetic_that_runs_here(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built where bf16 is, tried where it is not; and the other way round, where 100 dB were measured."""
    target = Target.parse(NULL)
    engine, report = engine_from_bundle(bundle, target), bundle.reports[NULL]
    measured = report.accuracy.snr_db
    assert _floor(report, engine, trained=False) == measured - 6
    f32 = report.model_copy(update={"executed_precision": Execution.F32})
    f32 = f32.model_copy(update={"accuracy": report.accuracy.model_copy(update={"snr_db": 108.0})})
    monkeypatch.setattr(Null, "execution", lambda *_: Execution.BF16)
    assert _floor(f32, engine, trained=True) == parity_floor(Execution.BF16, trained=True)
    monkeypatch.setattr(Null, "execution", lambda *_: Execution.F32)
    assert _floor(f32, engine, trained=True) == 102
    graph = report.model_copy(update={"accuracy": None, "graph_accuracy": f32.accuracy})
    monkeypatch.setattr(Null, "execution", lambda *_: Execution.F16)
    assert _floor(graph, engine, trained=True) == parity_floor(Execution.F16, trained=True)
