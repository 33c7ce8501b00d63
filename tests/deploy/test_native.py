"""Engines built where they run, from the lowered graphs of a bundle."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dnexport.bundle.pack import write_manifest
from dnexport.bundle.verify import Bundle
from dnexport.deploy.native import compile_bundle
from dnexport.errors import TargetUnavailable
from dnexport.spec.progress import Silent
from dnexport.spec.target import Target
from tests.deploy.test_check import NULL, RTX, bundle, copied
from tests.needs import local, needs

__all__ = ["bundle"]
Run = Callable[..., subprocess.CompletedProcess[str]]

WITHOUT_HOST = """
import sys
for name in ("torch", "onnx", "onnx_ir", "onnxscript", "matplotlib", "jinja2", "safetensors"):
    sys.modules[name] = None
from pathlib import Path
from dnexport.bundle.verify import Bundle
from dnexport.deploy.check import check_bundle
from dnexport.deploy.native import compile_bundle
from dnexport.spec.progress import Silent
bundle = Bundle.open(Path(sys.argv[1]))
for target in sys.argv[2:]:
    bundle = compile_bundle(bundle, target, Silent())
    print(target, bundle.reports[target].status, [c.usable for c in check_bundle(bundle, target, Silent())])
"""


@pytest.mark.parametrize("target", [local("openvino:cpu"), NULL])
def test_engines_are_built_without_torch_and_onnx(bundle: Bundle, tmp_path: Path, target: str) -> None:
    """In a process that cannot import them."""
    path = copied(bundle, tmp_path / "b")
    before = Bundle.open(path)
    command = [sys.executable, "-c", WITHOUT_HOST, str(path), target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{target} validated [True]"], done.stderr
    after = Bundle.open(path)
    assert after.reports[target].notes == ("built on the machine it runs on",)
    assert after.reports[target].accuracy.samples == before.manifest.golden.samples
    assert after.reports["tensorrt"] == before.reports["tensorrt"]
    assert set(before.manifest.files) - set(after.manifest.files) == {"report.html", "report.json"}
    assert after.reports[target].benchmark is None


@needs("tensorrt-rtx")
def test_plans_are_built_without_torch_and_onnx(bundle: Bundle, tmp_path: Path) -> None:
    path = copied(bundle, tmp_path / "b")
    command = [sys.executable, "-c", WITHOUT_HOST, str(path), RTX]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{RTX} built [False]"], done.stderr
    report = Bundle.open(path).reports[RTX]
    assert report.built_with["tensorrt-rtx"]
    assert report.notes == ("not run here: no NVIDIA GPU is here",)


@needs("openvino:cpu", "tensorrt-rtx")
def test_what_cannot_be_built_here_leaves_the_bundle_alone(bundle: Bundle, tmp_path: Path) -> None:
    path = copied(bundle, tmp_path / "b")
    before = (path / "bundle.json").read_bytes()
    for target in ("tensorrt", None):  # None: what has no engine yet, which is the same one
        with pytest.raises(TargetUnavailable, match="target tensorrt cannot be built here: "):
            compile_bundle(Bundle.open(path), target, Silent())
    assert (path / "bundle.json").read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["b"]


def without_engine(bundle: Bundle, path: Path, target: str) -> Bundle:
    """A copy in which one target is prepared only."""
    copied(bundle, path)
    report = bundle.reports[target].model_copy(update={"status": "prepared", "file": None, "bytes": None})
    file = path / "targets" / Target.parse(target).slug / "report.json"
    file.write_text(report.model_dump_json())
    write_manifest(path, bundle.manifest)
    return Bundle.open(path)


class Heard(Silent):
    """What was warned of."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def test_what_can_be_built_is_built_although_another_target_cannot(bundle: Bundle, tmp_path: Path) -> None:
    listener = Heard()
    after = compile_bundle(without_engine(bundle, tmp_path / "b", NULL), None, listener)
    assert after.reports[NULL].status == "validated"
    assert after.reports["tensorrt"].file is None
    assert any(warning.startswith("target tensorrt cannot be built here: ") for warning in listener.warnings)


def test_a_bundle_behind_a_link_is_compiled_where_it_lies(bundle: Bundle, tmp_path: Path) -> None:
    path = copied(bundle, tmp_path / "v3")
    (tmp_path / "current").symlink_to("v3")
    after = compile_bundle(Bundle.open(tmp_path / "current"), NULL, Silent())
    assert after.path == path
    assert (tmp_path / "current").is_symlink()
    assert Bundle.open(tmp_path / "current").digest == after.digest


def test_a_budget_that_fails_has_its_exit_code(bundle: Bundle, tmp_path: Path, run_cli: Run) -> None:
    path = copied(bundle, tmp_path / "b")
    recipe = bundle.manifest.recipe.model_copy(update={"require": ("size<=0.001MB",)})
    write_manifest(path, bundle.manifest.model_copy(update={"recipe": recipe}))
    done = run_cli("compile", str(path), "--target", NULL, cwd=tmp_path)
    assert done.returncode == 6, done.stderr
    assert "FAILED: size<=0.001MB on null:cpu" in done.stdout
