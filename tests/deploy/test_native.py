"""Engines built where they run, from the lowered graphs of a bundle."""

import subprocess
import sys
from pathlib import Path

import pytest

from dnexport.bundle.verify import Bundle
from dnexport.deploy.native import compile_bundle
from dnexport.errors import TargetUnavailable
from dnexport.spec.progress import Silent
from tests.deploy.test_check import RTX, bundle, copied

__all__ = ["bundle"]

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


def test_plans_and_engines_are_built_without_torch_and_onnx(bundle: Bundle, tmp_path: Path) -> None:
    """In a process that cannot import them: a real TensorRT for RTX plan, and an OpenVINO engine that answers."""
    path = copied(bundle, tmp_path / "b")
    before = Bundle.open(path)
    command = [sys.executable, "-c", WITHOUT_HOST, str(path), RTX, "openvino:cpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == [f"{RTX} built [False]", "openvino:cpu validated [True]"], done.stderr
    after = Bundle.open(path)
    assert after.reports["openvino:cpu"].notes == ("built on the machine it runs on",)
    assert after.reports["openvino:cpu"].accuracy.samples == before.manifest.golden.samples
    assert after.reports[RTX].built_with["tensorrt-rtx"]
    assert after.reports["tensorrt"] == before.reports["tensorrt"]
    assert set(before.manifest.files) - set(after.manifest.files) == {"report.html", "report.json"}
    assert after.reports["openvino:cpu"].benchmark is None


def test_what_cannot_be_built_here_leaves_the_bundle_alone(bundle: Bundle, tmp_path: Path) -> None:
    path = copied(bundle, tmp_path / "b")
    before = (path / "bundle.json").read_bytes()
    for target in ("tensorrt", None):  # None: what has no engine yet, which is the same one
        with pytest.raises(TargetUnavailable, match="target tensorrt cannot be built here: "):
            compile_bundle(Bundle.open(path), target, Silent())
    assert (path / "bundle.json").read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["b"]
