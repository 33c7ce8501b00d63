"""What ``make demo`` leaves, against the numbers it promises."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnexport.bundle.verify import Bundle
from dnexport.data.datasets import digits
from dnexport.data.images import input_from_pixels
from dnexport.graph.contract import apply, model_from_path, save_model
from dnexport.graph.passes_for import passes_for
from dnexport.measure.accuracy import snr_db
from dnexport.models.export import graph_logits
from dnexport.runtimes.contract import SessionOptions
from dnexport.runtimes.registry import open_session
from dnexport.spec.metrics import TargetReport
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.target import Target
from tests.needs import needs

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def fp16(demo: Path) -> Bundle:
    return Bundle.open(demo / "digits-fp16")


@pytest.fixture(scope="module")
def int8(demo: Path) -> Bundle:
    return Bundle.open(demo / "digits-int8")


def companion(bundle: Bundle) -> TargetReport:
    """Of the runtime that ``auto`` has chosen here."""
    (found,) = (report for report in bundle.reports.values() if report.companion)
    return found


def golden(bundle: Bundle) -> tuple[np.ndarray, np.ndarray]:
    samples = bundle.golden()
    return input_from_pixels(samples.images, bundle.manifest.preprocess), samples.logits


def test_it_is_done_in_time(demo_run: tuple[str, float]) -> None:
    """Two minutes of training and four in all on two quiet cores; a shared machine may take several times as long."""
    words, seconds = demo_run
    assert int(re.search(r"held-out images after (\d+) s", words)[1]) <= 900
    assert seconds <= 1500
    assert words.rstrip().endswith("digits.html")


def test_the_network_is_trained(fp16: Bundle) -> None:
    manifest = fp16.manifest
    assert manifest.weights.trained
    assert manifest.reference.samples == manifest.golden.labelled == 360
    assert manifest.reference.top1 >= 0.975


def test_the_canonical_fp32_graph_is_the_network(fp16: Bundle) -> None:
    images, reference = golden(fp16)
    logits = graph_logits(fp16.path / "model.onnx", images)
    assert np.abs(logits - reference).max() <= 1e-4 * np.abs(reference).max()


def test_the_fp16_graph_is_40_db_in_real_half_precision(fp16: Bundle, tmp_path: Path) -> None:
    images, reference = golden(fp16)
    model = model_from_path(fp16.path / "model.onnx")
    apply(passes_for(Precision.FP16, Target.parse("tensorrt")), model)
    save_model(model, tmp_path / "model.onnx")
    assert snr_db(reference, graph_logits(tmp_path / "model.onnx", images)) >= 40


@needs("openvino:cpu")
def test_openvino_takes_the_fp16_graph(fp16: Bundle, tmp_path: Path) -> None:
    """In whatever this processor has for it: f16, or f32 with the weights of f16."""
    images, reference = golden(fp16)
    model = model_from_path(fp16.path / "model.onnx")
    apply(passes_for(Precision.FP16, Target.parse("tensorrt")), model)
    save_model(model, tmp_path / "model.onnx")
    session = open_session(tmp_path / "model.onnx", Target.parse("openvino:cpu"), SessionOptions(Execution.F16, 2))
    assert snr_db(reference, session(images)) >= 40
    assert session.executed({}).execution in (Execution.F16, Execution.F32)


@needs("openvino:cpu")
def test_int8_is_executed_as_int8(int8: Bundle) -> None:
    report = int8.reports["openvino:cpu"]
    assert report.executed_precision in (Execution.INT8_F32, Execution.INT8_SATURATING_F32)
    assert report.proof.conv_work["int8"] > 0.9
    saturates = report.executed_precision is Execution.INT8_SATURATING_F32
    assert saturates == any("saturates" in note for note in report.notes)
    assert saturates == any("saturates" in warning for warning in int8.manifest.warnings)


@needs("openvino:cpu", "vnni")
def test_int8_changes_at_most_two_digits(int8: Bundle) -> None:
    report = int8.reports["openvino:cpu"]
    accuracy = report.accuracy
    assert accuracy.samples == accuracy.labelled == 360
    assert (1 - accuracy.agreement) * 360 <= 2.5
    assert report.census.conv_macs_by_precision["int8"] > 0.95, "all but the transitions"
    assert report.cross_check.snr_db >= 35
    assert accuracy.snr_db >= 40, "pixels exact, transitions in float, centred, compensated, corrected"


@needs("tensorrt-rtx")
def test_fp16_leaves_a_plan(fp16: Bundle) -> None:
    plan = fp16.reports["tensorrt-rtx:sm80+sm86+sm89+sm120"]
    assert plan.status == "built"
    assert plan.graph_accuracy.snr_db >= 40
    assert plan.census.conv_macs_by_precision == {"f16": 1.0}


def test_fp16_leaves_a_validated_companion(fp16: Bundle) -> None:
    report = companion(fp16)
    assert report.status == "validated"
    assert report.benchmark.latency.p50_ms < report.benchmark.best_reference.latency.p50_ms
    assert report.benchmark.references[0].form == "eager fp32"


def test_calibration_saw_no_test_image(int8: Bundle) -> None:
    summary = int8.manifest.calibration
    assert (summary.images, summary.synthetic) == (256, False)
    table = json.loads((int8.path / "calibration.json").read_text())
    assert len(set(table["image_digests"])) == 256


def test_the_two_bundles_share_their_stages(int8: Bundle) -> None:
    for name in ("load", "export", "passes", "reference"):
        assert int8.manifest.stages[name].reused


def test_a_second_build_reuses_all_and_imports_no_torch(demo: Path, root: Path) -> None:
    program = (
        "import sys\nfrom dnexport.cli.main import app\n"
        "code = app(['build', 'engines/digits-int8.toml', '--no-bench', '--json', '-o', 'engines/built/again'], standalone_mode=False)\n"
        "heavy = sorted({'torch', 'onnx', 'onnx_ir', 'onnxscript'} & set(sys.modules))\n"
        "sys.exit(f'imported {heavy}' if heavy else code)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert all(stage["reused"] for stage in document["stages"].values())
    assert all(target["latency_ms"] is None for target in document["targets"].values())


def test_predict_names_the_digit(
    fp16: Bundle, run_cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path, root: Path
) -> None:
    test = digits().test
    Image.fromarray(test.pictures[0]).save(tmp_path / "digit.png")
    done = run_cli("predict", str(fp16.path), str(tmp_path / "digit.png"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    assert re.match(rf"\s+9\d\.\d+%\s+{test.labels[0]}$", lines[1])


def test_predict_names_what_is_not_there(
    fp16: Bundle, run_cli: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    done = run_cli("predict", str(fp16.path), "none.png", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "error: image none.png does not exist; check the path\n")
    done = run_cli("predict", str(fp16.path), "none.png", "--target", "tensorrt", cwd=tmp_path)
    assert done.returncode == 2
    assert "has no engine for 'tensorrt'" in done.stderr


def test_the_stored_recipe_asks_no_questions(fp16: Bundle, root: Path) -> None:
    recipe = fp16.manifest.recipe
    assert recipe.weights == str(root / "engines" / "built" / "digits.safetensors")
    assert recipe.targets == tuple(fp16.reports)
    assert "auto" not in recipe.targets


def test_validate_and_bench_speak_json(
    int8: Bundle, run_cli: Callable[..., subprocess.CompletedProcess[str]], root: Path
) -> None:
    report = companion(int8)
    done = run_cli("validate", str(int8.path), "--json", cwd=root)
    assert json.loads(done.stdout)[report.target]["samples"] == 360, done.stderr
    done = run_cli("validate", str(int8.path), "--data", "digits", "--json", cwd=root)
    again = json.loads(done.stdout)[report.target]
    assert again["labelled"] == 360
    assert again["snr_db"] == pytest.approx(report.accuracy.snr_db, abs=0.5)
    done = run_cli("bench", str(int8.path), "--json", "--restarts", "2", "--block", "0.02", cwd=root)
    measured = json.loads(done.stdout)[report.target]
    assert measured["cold_start"]["starts"] == 2
    assert measured["engine_digest"] == again["engine_digest"] == report.engine_digest
    assert measured["latency"]["p99_ms"] is None


def test_calibrate_and_its_table_in_a_build(
    demo: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]], root: Path, tmp_path: Path
) -> None:
    table = tmp_path / "table.json"
    done = run_cli("calibrate", "engines/digits-int8.toml", "-o", str(table), cwd=root)
    assert done.returncode == 0, done.stderr
    arguments = ["build", "engines/digits-int8.toml", "--calibration-table", str(table), "--no-bench", "--json"]
    done = run_cli(*arguments, "-o", "engines/built/from-table", cwd=root)
    assert json.loads(done.stdout)["status"] == "ok", done.stderr
    assert Bundle.open(root / "engines" / "built" / "from-table").calibration_table() is not None
    table.write_text(
        table.read_text()
        .replace('"graph_digest":"', '"graph_digest":"0')
        .replace('"graph_digest": "', '"graph_digest": "0')
    )
    done = run_cli(*arguments, "-o", "engines/built/from-other-table", cwd=root)
    assert done.returncode == 3
    assert "the calibration table is of graph 0" in done.stderr
    assert not (root / "engines" / "built" / "from-other-table").exists()
