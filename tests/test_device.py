"""A device: the base install and ONNX Runtime in an environment of their own, which has neither PyTorch nor ONNX."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import torch
from PIL import Image

from dnexport.bundle.verify import Bundle
from dnexport.models.zoo import module_from_seed
from dnexport.spec.archs.densenet import DenseNetArch
from dnexport.spec.report import report_from_file
from tests.bundle.test_session import built
from tests.needs import needs

LARGEST_MB = 200


def environment(folder: Path, root: Path, runtime: str) -> Path:
    """The Python of a new environment with the base install and one runtime."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-compile"]
    constraints = ["--constraint", str(root / "constraints.txt")]
    subprocess.run([*pip, *constraints, str(root), runtime], check=True, capture_output=True)
    return python


@pytest.fixture(scope="module")
def device(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A device with ONNX Runtime."""
    return environment(tmp_path_factory.mktemp("device") / "env", root, "onnxruntime")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Of weights in a file, which count as trained, so that it may be packed."""
    folder = tmp_path_factory.mktemp("bundle")
    module = module_from_seed(DenseNetArch(blocks=(2, 2), k=8, stem="cifar", init=8, classes=10), (32, 32), 0)
    torch.save(module.state_dict(), folder / "w.pth")
    return built(folder / "b", arch=None, weights=str(folder / "w.pth"), batch="1..1..4")


def run(device: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(device), "-m", "dnexport.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_it_is_small_and_has_no_host_library(device: Path) -> None:
    packages = next((device.parents[1] / "lib").glob("python*")) / "site-packages"
    size = sum(file.stat().st_size for file in packages.rglob("*") if file.is_file())
    assert size < LARGEST_MB * 1e6
    names = {path.name for path in packages.iterdir()}
    assert not names & {"torch", "onnx", "onnx_ir", "onnxscript", "matplotlib", "scipy", "jinja2", "sympy"}


def test_it_checks_compiles_validates_measures_and_answers(device: Path, bundle: Bundle, tmp_path: Path) -> None:
    found = run(device, "check", str(bundle.path), "--json", "--expect-digest", bundle.digest)
    assert found.returncode == 0, found.stderr
    checked = json.loads(found.stdout)
    assert checked["onnxruntime:cpu"]["self_test"]["passed"]
    assert checked["openvino:cpu"]["verdict"] == "never"
    assert "openvino is not installed" in checked["openvino:cpu"]["reason"]
    for command in (
        ["compile", "--target", "onnxruntime:cpu"],
        ["validate", "--target", "onnxruntime:cpu"],
        [
            "bench",
            "--target",
            "onnxruntime:cpu",
            "--restarts",
            "1",
            "--block",
            "0.02",
            "-o",
            str(tmp_path / "bench.json"),
        ],
    ):
        done = run(device, command[0], str(bundle.path), *command[1:], "--json")
        assert done.returncode == 0, (command, done.stderr)
        assert "onnxruntime:cpu" in done.stdout
    assert list(report_from_file(tmp_path / "bench.json").bundles[0].targets) == ["onnxruntime:cpu"]
    page = run(device, "bench", str(bundle.path), "-o", str(tmp_path / "bench.html"))
    assert page.returncode == 4
    assert "a page needs jinja2 and matplotlib, which are not installed; pip install jinja2 matplotlib" in page.stderr
    Image.fromarray(bundle.golden().images[0]).save(tmp_path / "a.png")
    answer = run(device, "predict", str(bundle.path), str(tmp_path / "a.png"), "--json")
    assert answer.returncode == 0, answer.stderr
    best = json.loads(answer.stdout)[str(tmp_path / "a.png")][0]["name"]
    assert best == bundle.manifest.class_names[bundle.golden().logits[0].argmax()]


@needs("openvino:cpu")
def test_openvino_alone_is_enough(root: Path, bundle: Bundle, tmp_path: Path) -> None:
    """Its package and the base install: no ONNX Runtime."""
    device = environment(tmp_path / "env", root, "openvino")
    found = run(device, "check", str(bundle.path), "--json")
    assert found.returncode == 0, found.stderr
    checked = json.loads(found.stdout)
    assert checked["openvino:cpu"]["self_test"]["passed"]
    assert checked["onnxruntime:cpu"]["reason"] == "onnxruntime is not installed"
    Image.fromarray(bundle.golden().images[0]).save(tmp_path / "a.png")
    answer = run(device, "predict", str(bundle.path), str(tmp_path / "a.png"), "--json")
    assert answer.returncode == 0, answer.stderr
    best = json.loads(answer.stdout)[str(tmp_path / "a.png")][0]["name"]
    assert best == bundle.manifest.class_names[bundle.golden().logits[0].argmax()]


def test_an_archive_from_the_host_is_unpacked_and_pinned(device: Path, bundle: Bundle, tmp_path: Path) -> None:
    archive, folder = tmp_path / "b.tar", tmp_path / "unpacked"
    bundle = Bundle.open(bundle.path)  # as it is now: another test compiles in it
    host = Path(sys.executable)
    packed = run(host, "package", str(bundle.path), "--format", "tar", "-o", str(archive), "--json")
    assert packed.returncode == 0, packed.stderr
    command = ["package", str(archive), "--format", "folder", "-o", str(folder)]
    wrong = run(device, *command, "--expect-digest", "0" * 64)
    assert wrong.returncode == 8
    assert not folder.exists()
    done = run(device, *command, "--expect-digest", bundle.digest)
    assert done.returncode == 0, done.stderr
    assert Bundle.open(folder, bundle.digest).manifest == bundle.manifest
    told = run(device, "check", str(archive))
    assert told.returncode == 3
    assert f"b.tar is a file, not a bundle; unpack it: dnexport package {archive} --format folder -o DIR" in told.stderr


def test_what_the_host_has_is_named_where_it_is_needed(device: Path) -> None:
    done = run(device, "build", "--arch", "densenet121")
    assert done.returncode == 4
    assert "pip install 'dnexport[host]'" in done.stderr
