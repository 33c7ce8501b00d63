"""Fixtures that several folders share, and the rule that a skip must be expected on this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import settings

from tests.needs import INSTRUCTIONS, lacking

if TYPE_CHECKING:  # the package is imported under the hook that checks its types
    from dnexport.spec.archs import AnyArch

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

settings.register_profile("repository", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("repository")

# Reasons for which a test may skip where CI runs: a machine with two cores and no GPU, whatever its processor.
EXPECTED_SKIPS: tuple[str, ...] = (
    "no NVIDIA GPU is here",
    "an NVIDIA GPU is here",
    "cuda-bindings is not installed",
    *(f"needs {name}:" for name in INSTRUCTIONS),
    # What a run leaves out on purpose: DNEXPORT_WITHOUT="openvino:cpu tensorrt-rtx".
    *(f"needs {name}" for name in os.environ.get("DNEXPORT_WITHOUT", "").split()),
)
if not SHARED.is_dir():  # a clone of its own
    EXPECTED_SKIPS += ("no shared data beside this checkout",)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for what in marker.args:
            if (reason := lacking(what)) is not None:
                pytest.skip(f"needs {what}: {reason}")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    unexpected = _unexpected_skips(terminalreporter)
    for reason in unexpected:
        terminalreporter.write_line(f"ERROR unexpected skip: {reason}", red=True)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") == "true" and reporter and _unexpected_skips(reporter) and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _unexpected_skips(reporter: pytest.TerminalReporter) -> list[str]:
    reasons = {str(report.longrepr[2]) for report in reporter.getreports("skipped")}
    return sorted(r for r in reasons if not any(expected in r for expected in EXPECTED_SKIPS))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def demo_run() -> tuple[str, float]:
    """``make demo`` as a user runs it: what it printed, and its seconds."""
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    began = time.monotonic()
    make = ["make", "--no-print-directory", "demo"]  # under 'make test' it would name its directory
    done = subprocess.run(make, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout, time.monotonic() - began


@pytest.fixture(scope="session")
def demo(demo_run: tuple[str, float]) -> Path:
    """The folder with what ``make demo`` built."""
    assert demo_run
    return ROOT / "engines" / "built"


@pytest.fixture(scope="session")
def run_cli() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The installed program in a process of its own."""

    def run(*args: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-m", "dnexport.cli", *args]
        environment = {**os.environ, **(env or {})}
        return subprocess.run(program, cwd=cwd, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.fixture
def evaluate() -> Callable[[ir.Model, np.ndarray], np.ndarray]:
    """Logits of a model on ONNX Runtime's CPU provider without its optimizer."""
    import onnxruntime

    def run(model: ir.Model, images: np.ndarray) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        content = ir.to_proto(model).SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return session.run(None, {session.get_inputs()[0].name: images})[0]

    return run


@pytest.fixture(scope="session")
def family_graph(tmp_path_factory: pytest.TempPathFactory) -> "Callable[[AnyArch], Path]":
    """The export of a random network for 32×32 pixels (seed 0), made once, also for tests of other processes."""
    from dnexport.data.datasets import synthetic
    from dnexport.data.images import input_from_pixels
    from dnexport.models.export import export_onnx
    from dnexport.models.zoo import module_from_seed
    from tests.networks import FAMILY_PREPROCESS as PREPROCESS

    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "exports"
    folder.mkdir(exist_ok=True)

    def graph(arch: "AnyArch") -> Path:
        path = folder / f"{arch.content_digest()}.onnx"
        if not path.exists():
            images = input_from_pixels(synthetic(4, PREPROCESS).pixels(PREPROCESS), PREPROCESS)
            part = folder / f"{os.getpid()}.onnx"
            export_onnx(module_from_seed(arch, PREPROCESS.input_size, 0), images, part)
            part.replace(path)
        return path

    return graph


@pytest.fixture(scope="session")
def tiny_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random DenseNet, exported: two blocks of two layers, 16×16, five classes."""
    from dnexport.data.images import input_from_pixels
    from dnexport.models.export import export_onnx
    from dnexport.models.zoo import module_from_seed
    from tests.networks import TINY, TINY_PREPROCESS, tiny_pixels

    path = tmp_path_factory.mktemp("tiny") / "model.onnx"
    images = input_from_pixels(tiny_pixels(4), TINY_PREPROCESS)
    export_onnx(module_from_seed(TINY, TINY_PREPROCESS.input_size, 0), images, path)
    return path


@pytest.fixture(autouse=True)
def _no_network_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never wait for a download host; the ones about pretrained weights set their own."""
    monkeypatch.setattr("dnexport.build.pretrained.PRETRAINED_BASE", "https://host.invalid/models/")
