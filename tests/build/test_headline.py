"""``dnexport build --arch densenet121 --fp16 --json`` on a machine without a GPU."""

from pathlib import Path

import headline
import pytest

from dnexport.bundle.verify import Bundle
from tests.needs import needs

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, float, float, Path]:
    """The headline as the benchmark runs it, with random weights wherever the tests run: document, seconds, GB, folder."""
    folder = tmp_path_factory.mktemp("headline")
    return *headline.run([*headline.HEADLINE, "--weights", "random"], folder), folder


def test_the_document_is_the_contract(built: tuple[dict, float, float, Path]) -> None:
    document, _, _, folder = built
    assert set(document) == {
        "schema",
        "status",
        "bundle",
        "digest",
        "weights",
        "reference",
        "targets",
        "budgets",
        "stages",
        "warnings",
    }
    assert document["status"] == "ok"
    assert document["bundle"] == str(folder / "engines" / "built" / "densenet121-fp16")
    assert document["weights"] == {"source": "random", "trained": False}
    assert document["reference"] == {
        "form": "eager fp32",
        "threads": document["reference"]["threads"],
        "top1": None,
        "samples": 32,
    }
    assert document["warnings"] == []
    *_, local = document["targets"].values()
    assert local["status"] == "validated"
    assert set(local) == {"status", "error", "file", "bytes", "executed_precision", "accuracy", "latency_ms", "speedup"}
    assert set(local["accuracy"]) == {"top1", "agreement", "snr_db", "max_abs_error"}
    assert set(local["latency_ms"]) == {"p50", "p90", "p99"}
    # Withheld where blocks alone contradict the alternation.
    eager = local["speedup"]["eager_fp32"]
    assert eager is None or eager > 1


@needs("tensorrt-rtx")
def test_the_plan_is_there(built: tuple[dict, float, float, Path]) -> None:
    document = built[0]
    plan = document["targets"]["tensorrt-rtx:sm80+sm86+sm89+sm120"]
    assert plan["status"] == "built"
    assert (Path(document["bundle"]) / plan["file"]).stat().st_size == plan["bytes"] > 20e6


def test_the_bundle_verifies_and_is_stamped_untrained(built: tuple[dict, float, float, Path]) -> None:
    bundle = Bundle.open(Path(built[0]["bundle"]))
    assert not bundle.manifest.weights.trained
    assert "Untrained." in (bundle.path / "report.html").read_text()
    assert bundle.golden().labels.tolist() == [-1] * 32


def test_it_is_done_in_minutes_and_4_gb(built: tuple[dict, float, float, Path]) -> None:
    """Most of it measures PyTorch in five sets of processes, so how long it takes is the processor's."""
    _, seconds, gigabytes, _ = built
    assert seconds < 900
    assert 0.5 < gigabytes < 4
