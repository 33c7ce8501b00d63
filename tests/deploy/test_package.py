"""What goes to a device is verified, trained and whole, or it does not go."""

import errno
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dnexport.bundle.archive import write_archive
from dnexport.bundle.pack import write_manifest
from dnexport.bundle.triton import CONFIG, MARK, Served
from dnexport.bundle.verify import Bundle
from dnexport.deploy.package import package_bundle, served_target, serving_warnings
from dnexport.errors import BadInput, IntegrityError, StorageError, TargetUnavailable, UsageError
from dnexport.spec.metrics import TargetReport
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.record import digest_from_file
from tests.bundle.test_archive import contents
from tests.deploy.test_check import RTX, bundle

__all__ = ["bundle"]


def trained(bundle: Bundle, path: Path, *, recipe: dict[str, Any] | None = None, **reports: dict[str, Any]) -> Bundle:
    """A copy that says it is trained, and what else is said of its recipe and, by slug, of its targets.

    OpenVINO's engine is the lowered graph, which is there where OpenVINO is not.
    """
    reports = {"openvino_cpu": {}, **reports}
    reports["openvino_cpu"] = {"status": "built", "file": GRAPH, **reports["openvino_cpu"]}
    shutil.copytree(bundle.path, path)
    manifest, targets = bundle.manifest, dict(bundle.manifest.targets)
    for name, update in reports.items():
        slug = name.replace("_", "-")
        target = {"onnxruntime-cuda": "onnxruntime:cuda", "openvino-cpu": "openvino:cpu"}.get(slug, slug)
        folder, targets[target] = path / "targets" / slug, slug
        folder.mkdir(exist_ok=True)
        report = bundle.reports.get(target, TargetReport(target=target, status="built")).model_copy(update=update)
        if report.file and not (path / report.file).exists():
            (path / report.file).write_bytes(b"an engine")
        (folder / "report.json").write_text(report.model_dump_json())
    weights = manifest.weights.model_copy(update={"trained": True})
    said = manifest.recipe.model_copy(update=recipe or {})
    write_manifest(path, manifest.model_copy(update={"weights": weights, "recipe": said, "targets": targets}))
    return Bundle.open(path)


GRAPH = "targets/openvino-cpu/model.onnx"
PLAN = {"status": "built", "file": "targets/tensorrt/engine.plan", "built_with": {"tensorrt": "10.9"}}
CUDA = {"file": "targets/onnxruntime-cuda/model.onnx"}


def test_a_bundle_travels_in_an_archive(bundle: Bundle, tmp_path: Path) -> None:
    good = trained(bundle, tmp_path / "b")
    for name in ("a.tar", "a.tar.gz"):
        packed = package_bundle(good.path, "tar", tmp_path / name, None, good.digest)
        assert (packed.format, packed.bundle, packed.target, packed.warnings) == ("tar", "checked", None, ())
        assert packed.digest == digest_from_file(tmp_path / name)
        assert packed.bytes == (tmp_path / name).stat().st_size
        unpacked = package_bundle(tmp_path / name, "folder", tmp_path / "c", None, good.digest)
        assert contents(tmp_path / "c") == contents(good.path)
        assert unpacked.files == packed.files == len(good.manifest.files) + 1
        assert unpacked.bundle_digest == packed.bundle_digest == Bundle.open(tmp_path / "c").digest
        again = package_bundle(tmp_path / name, "tar", tmp_path / f"again-{name}", None, None)
        assert again.digest == packed.digest
    onto_itself = package_bundle(tmp_path / "a.tar", "tar", tmp_path / "a.tar", None, None)
    assert onto_itself.digest == digest_from_file(tmp_path / "again-a.tar")


def test_untrained_weights_go_nowhere(bundle: Bundle, tmp_path: Path) -> None:
    write_archive(bundle, tmp_path / "a.tar")
    for source in (bundle.path, tmp_path / "a.tar"):
        for form, output in (("tar", "x.tar"), ("triton", "models")):
            with pytest.raises(
                BadInput, match=r"has untrained weights \(random\).*; build it again with --weights FILE"
            ):
                package_bundle(source, form, tmp_path / output, None, None)
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_calibration_without_images_is_said(bundle: Bundle, tmp_path: Path) -> None:
    from dnexport.spec.manifest import CalibrationSummary
    from dnexport.spec.quantization import CalibrationSet

    summary = CalibrationSummary(
        calibration_set=CalibrationSet(), images=8, tensors=8, synthetic=True, placement="activation", layers=8,
        kept=0, trials=(), measured_on=None,
    )  # fmt: skip
    good = trained(bundle, tmp_path / "b")
    write_manifest(good.path, good.manifest.model_copy(update={"calibration": summary}))
    packed = package_bundle(good.path, "tar", tmp_path / "a.tar", None, None)
    assert packed.warnings == ("INT8 was calibrated without a real image: its accuracy is not to be relied on",)


def test_a_damaged_or_foreign_bundle_is_neither_packed_nor_unpacked(bundle: Bundle, tmp_path: Path) -> None:
    good = trained(bundle, tmp_path / "b")
    write_archive(good, tmp_path / "a.tar")
    with tarfile.open(tmp_path / "a.tar") as tar:
        member = tar.getmember("checked/model.onnx")
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[member.offset_data + member.size // 2] ^= 1
    (tmp_path / "a.tar").write_bytes(content)
    for form, output in (("folder", "c"), ("triton", "models"), ("tar", "x.tar")):
        with pytest.raises(
            IntegrityError, match=rf"file model\.onnx of bundle {tmp_path}/a\.tar is not what the manifest"
        ):
            package_bundle(tmp_path / "a.tar", form, tmp_path / output, None, None)
    (good.path / "model.onnx").write_bytes(b"x")
    with pytest.raises(IntegrityError, match=r"model\.onnx of bundle .*/b is not what the manifest says"):
        package_bundle(good.path, "tar", tmp_path / "x.tar", None, None)
    write_archive(trained(bundle, tmp_path / "c"), tmp_path / "c.tar")
    for source, form in (("c", "tar"), ("c.tar", "tar"), ("c.tar", "folder"), ("c.tar", "triton")):
        with pytest.raises(IntegrityError, match=f"not {'0' * 64}; get the bundle again from who made it"):
            package_bundle(tmp_path / source, form, tmp_path / "x.tar", None, "0" * 64)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "b", "c", "c.tar"]


def test_a_refused_archive_leaves_the_earlier_folder(bundle: Bundle, tmp_path: Path) -> None:
    good = trained(bundle, tmp_path / "b")
    write_archive(good, tmp_path / "a.tar")
    package_bundle(tmp_path / "a.tar", "folder", tmp_path / "c", None, None)
    (tmp_path / "a.tar").write_bytes((tmp_path / "a.tar").read_bytes()[:5000])
    with pytest.raises(IntegrityError, match=r"a\.tar is no archive of a bundle: unexpected end of data"):
        package_bundle(tmp_path / "a.tar", "folder", tmp_path / "c", None, None)
    assert Bundle.open(tmp_path / "c").digest == good.digest
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="holds files that are no bundle"):
        package_bundle(tmp_path / "a.tar", "folder", tmp_path / "mine", None, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "b", "c", "mine"]


@pytest.mark.parametrize(
    ("source", "form", "output", "target", "match"),
    [
        ("b", "tar", "x.tar", "openvino:cpu", "format tar holds all targets, and --target openvino:cpu names one"),
        ("b", "folder", "x", None, "is a folder, and --format folder unpacks an archive"),
        ("b", "tar", "b/x.tar", None, "lie one in the other"),
        ("b/inside.tar", "folder", "b", None, "lie one in the other"),
        ("b", "triton", "b", None, "lie one in the other"),
        ("b", "triton", ".", None, "lie one in the other"),
        ("b", "tar", ".", None, "lie one in the other"),
        ("b", "triton", "m", "onnxruntime:cpu", "has no target 'onnxruntime:cpu'"),
    ],
)
def test_contradictions_are_named(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    source: str, form: Any, output: str, target: str | None, match: str,
) -> None:  # fmt: skip
    trained(bundle, tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=match):
        package_bundle(Path(source), form, Path(output), target, None)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_a_source_that_is_neither_is_bad_input(bundle: Bundle, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").mkdir()
    for name, match in (
        ("none", "none is not there; give a bundle"),
        ("pipe", "pipe is no file"),
        ("empty", "is not a bundle"),
    ):
        with pytest.raises(BadInput, match=match):
            package_bundle(tmp_path / name, "tar", tmp_path / "x.tar", None, None)


def test_triton_serves_the_first_target_that_it_can(bundle: Bundle, tmp_path: Path) -> None:
    plain = trained(bundle, tmp_path / "b")
    assert served_target(plain, None) == "openvino:cpu"
    companion = trained(bundle, tmp_path / "c", tensorrt=PLAN, openvino_cpu={"companion": True})
    assert next(iter(companion.reports)) == "openvino:cpu"
    assert served_target(companion, None) == "tensorrt"
    assert served_target(companion, "openvino:cpu") == "openvino:cpu"
    none = trained(bundle, tmp_path / "d", openvino_cpu={"file": None, "status": "failed"})
    reasons = (
        rf"openvino:cpu: it is failed, not built; {RTX}: it has no backend for tensorrt-rtx; tensorrt: it is prepared"
    )
    with pytest.raises(TargetUnavailable, match=reasons) as caught:
        served_target(none, None)
    assert caught.value.remedy == f"dnexport compile {tmp_path}/d --target openvino:cpu"


def test_what_triton_cannot_serve_is_refused_by_name(bundle: Bundle, tmp_path: Path) -> None:
    plain = trained(bundle, tmp_path / "b")
    with pytest.raises(TargetUnavailable, match="no backend for tensorrt-rtx; build for tensorrt or onnxruntime"):
        package_bundle(plain.path, "triton", tmp_path / "m", RTX, None)
    with pytest.raises(
        TargetUnavailable, match=r"tensorrt of bundle .* is prepared, not built; dnexport compile .* --target tensorrt"
    ):
        package_bundle(plain.path, "triton", tmp_path / "m", "tensorrt", None)
    eight = trained(bundle, tmp_path / "c", recipe={"precision": Precision.INT8}, onnxruntime_cuda=CUDA, tensorrt=PLAN)
    with pytest.raises(
        TargetUnavailable, match=r"rewrites Q/DQ around an FP16 body, wrongly.*; build the bundle for tensorrt"
    ):
        package_bundle(eight.path, "triton", tmp_path / "m", "onnxruntime:cuda", None)
    assert package_bundle(eight.path, "triton", tmp_path / "m", "tensorrt", None).target == "tensorrt"


def test_where_triton_differs_is_said(bundle: Bundle, tmp_path: Path) -> None:
    here = {"executed_precision": Execution.F32, "companion": True}
    single = {"precision": Precision.FP32, "batch": "4"}
    other = trained(bundle, tmp_path / "b", recipe=single, tensorrt=PLAN, onnxruntime_cuda=CUDA, openvino_cpu=here)
    openvino = serving_warnings(Served(other, "openvino:cpu"))
    assert [warning.partition(":")[0][:40] for warning in openvino] == [
        "openvino",
        "Triton's openvino backend cannot be held",
        "Triton does not put queries of openvino",
    ]
    assert openvino[-1].endswith("it needs 24.03 or later, and each brings 1 to 4 images")
    plan, batches = serving_warnings(Served(other, "tensorrt"))
    assert "built by TensorRT 10.9" in plan
    assert batches.endswith("each brings 4 images")
    (tf32,) = serving_warnings(Served(other, "onnxruntime:cuda"))
    assert "NVIDIA_TF32_OVERRIDE=0" in tf32
    half = trained(bundle, tmp_path / "c", onnxruntime_cuda=CUDA, openvino_cpu={"executed_precision": Execution.BF16})
    assert serving_warnings(Served(half, "onnxruntime:cuda")) == ()
    assert len(serving_warnings(Served(half, "openvino:cpu"))) == 1


def test_only_a_repository_of_this_model_is_replaced(bundle: Bundle, tmp_path: Path) -> None:
    good, models = trained(bundle, tmp_path / "b"), tmp_path / "models"
    first = package_bundle(good.path, "triton", models, None, None)
    assert (first.files, first.target) == (5, "openvino:cpu")
    assert first.bytes == sum(map(len, contents(models).values()))
    (models / "checked" / "1" / "left").write_text("x")
    assert package_bundle(good.path, "triton", models, None, None).digest == first.digest
    (tmp_path / "empty").mkdir()
    assert package_bundle(good.path, "triton", tmp_path / "empty", None, None).digest == first.digest
    (models / "another").mkdir()
    with pytest.raises(UsageError, match=r"holds 'another', which is not this bundle's model; .*several times"):
        package_bundle(good.path, "triton", models, None, None)
    (models / "another").rmdir()
    config = models / "checked" / CONFIG
    assert config.read_text().startswith(MARK)
    config.write_text("# by hand\n")
    with pytest.raises(UsageError, match="holds 'checked', which is not this bundle's model"):
        package_bundle(good.path, "triton", models, None, None)
    for make in (lambda path: path.write_text("x"), lambda path: path.symlink_to(models)):
        make(tmp_path / "other")
        with pytest.raises(UsageError, match="exists and is no model repository; choose another --output"):
            package_bundle(good.path, "triton", tmp_path / "other", None, None)
        (tmp_path / "other").unlink()
    with pytest.raises(UsageError, match=r"holds 'bundle\.json', which is not"):
        package_bundle(good.path, "triton", trained(bundle, tmp_path / "c").path, None, None)


@pytest.mark.parametrize("form", ["folder", "triton", "tar"])
def test_a_full_disk_leaves_what_was_there(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: Any
) -> None:
    good = trained(bundle, tmp_path / "b")
    write_archive(good, tmp_path / "a.tar")
    output = tmp_path / "out" / ("x.tar" if form == "tar" else "x")
    package_bundle(tmp_path / "a.tar", form, output, None, None)
    before = contents(output.parent)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="free some space or choose another --output"):
        package_bundle(tmp_path / "a.tar", form, output, None, None)
    assert contents(output.parent) == before


def test_a_full_temporary_disk_is_named(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_archive(trained(bundle, tmp_path / "b"), tmp_path / "a.tar")

    def full(_: Path, folder: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "model.onnx"))

    monkeypatch.setattr("dnexport.deploy.package.unpack_archive", full)
    with pytest.raises(StorageError, match=r"cannot write /.*partial/model\.onnx: no space left"):
        package_bundle(tmp_path / "a.tar", "triton", tmp_path / "models", None, None)


def test_the_command_speaks_json_and_has_exit_codes(
    bundle: Bundle, tmp_path: Path, run_cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    trained(bundle, tmp_path / "b")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_cli("package", *arguments, cwd=tmp_path)

    done = run("b", "--format", "tar", "-o", "a.tar.gz", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["digest"] == digest_from_file(tmp_path / "a.tar.gz")
    done = run("a.tar.gz", "--format", "folder", "-o", "c")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "c") in done.stdout
    done = run("a.tar.gz", "--format", "triton", "-o", "models")
    assert done.returncode == 0, done.stderr
    assert "target openvino:cpu" in done.stdout
    assert "warning: Triton does not put queries" in done.stderr
    (tmp_path / "cut.tar").write_bytes((tmp_path / "a.tar.gz").read_bytes()[:999])
    for arguments, code, words in (
        ((str(bundle.path), "--format", "tar", "-o", "x.tar"), 3, "has untrained weights"),
        (("b", "--format", "triton", "--target", RTX, "-o", "x"), 4, "no backend for tensorrt-rtx"),
        (("cut.tar", "--format", "folder", "-o", "x"), 8, "is no archive of a bundle"),
        (("b", "--format", "tar", "-o", "x.zip"), 2, "end it in .tar or .tar.gz"),
        (("b", "--format", "rpm", "-o", "x"), 2, "rpm"),
    ):
        done = run(*arguments)
        assert done.returncode == code, done.stderr
        assert words in done.stderr
    assert not list(tmp_path.glob("x*"))
