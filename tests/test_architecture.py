"""The strata are enforced, and the enforcement works."""

import fnmatch
import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run([program, "--no-logo", "--no-cache"], cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder), "PATH": "/usr/bin:/bin"}, check=False)  # fmt: skip


@pytest.fixture
def copy(root: Path, tmp_path: Path) -> Path:
    shutil.copytree(root / "dnexport", tmp_path / "dnexport")
    shutil.copy(root / "pyproject.toml", tmp_path)
    return tmp_path


def test_imports_go_down_only(copy: Path) -> None:
    done = lint(copy)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("file", "statement"),
    [
        ("spec/target.py", "from dnexport.runtimes.registry import runtime_for"),
        ("deploy/bench.py", "from dnexport.models.densenet import DenseNet"),
        ("graph/census.py", "from dnexport.report.plots import latency_plot"),
        ("errors.py", "import dnexport.spec"),
    ],
)
def test_an_upward_or_sideways_import_fails(copy: Path, file: str, statement: str) -> None:
    path = copy / "dnexport" / file
    path.write_text(path.read_text() + f"\n{statement}\n")
    done = lint(copy)
    assert done.returncode != 0
    assert "BROKEN" in done.stdout


def test_a_new_stratum_must_be_named(copy: Path) -> None:
    (copy / "dnexport" / "utils.py").write_text("")
    assert lint(copy).returncode != 0


def test_the_device_strata_import_neither_torch_nor_onnx(root: Path) -> None:
    """In a process that cannot import them."""
    program = """
import sys
for name in ("torch", "onnx", "onnx_ir", "onnxscript", "matplotlib", "jinja2", "safetensors"):
    sys.modules[name] = None
import importlib, pkgutil, dnexport
for package in ("errors", "spec", "data", "runtimes", "measure", "bundle", "deploy", "cli"):
    module = importlib.import_module(f"dnexport.{package}")
    for info in pkgutil.iter_modules(getattr(module, "__path__", ())):
        if (package, info.name) not in {("cli", "render"), ("cli", "__main__")}:
            importlib.import_module(f"dnexport.{package}.{info.name}")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_skips_must_be_expected(root: Path, tmp_path: Path) -> None:
    """CI fails on a skip whose reason is not on the list."""
    shutil.copy(root / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_skips.py").write_text(
        "import pytest\ndef test_passes(): pass\n@pytest.mark.skip(reason=REASON)\ndef test_skips(): pass\n".replace(
            "REASON", "'no NVIDIA GPU is here'"
        )
    )
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "-c",
        "/dev/null",
        str(tmp_path),
    ]
    environment = {"CI": "true", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(root)}
    expected = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert expected.returncode == 0, expected.stdout + expected.stderr
    (tmp_path / "test_skips.py").write_text(
        (tmp_path / "test_skips.py").read_text().replace("no NVIDIA GPU is here", "too lazy")
    )
    unexpected = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert unexpected.returncode == 1
    assert "ERROR unexpected skip: Skipped: too lazy" in unexpected.stdout


def test_no_folder_of_tests_is_passed_over(pytestconfig: pytest.Config, root: Path) -> None:
    """pytest passes over folders named 'build' unless it is told otherwise."""
    folders = {path.parent for path in (root / "tests").rglob("test_*.py")}
    names = {part for folder in folders for part in folder.relative_to(root).parts}
    assert "build" in names
    for pattern in pytestconfig.getini("norecursedirs"):
        assert not [name for name in names if fnmatch.fnmatch(name, pattern)], pattern
