"""What ``build --json`` prints: the contract with scripts."""

from collections.abc import Sequence
from typing import Any

from dnexport.bundle.verify import Bundle
from dnexport.errors import DnexportError
from dnexport.spec.latency import Benchmark, Latency
from dnexport.spec.metrics import TargetReport

SCHEMA = 1
# What ``build --json`` prints where nothing was built; the error is added.
NOTHING: dict[str, Any] = {
    "schema": SCHEMA,
    "status": "failed",
    "bundle": None,
    "digest": None,
    "weights": None,
    "reference": None,
    "targets": {},
    "stages": {},
    "warnings": [],
    "budgets": [],
}


def document_from_bundle(bundle: Bundle, failures: Sequence[DnexportError] = ()) -> dict[str, Any]:
    """The document of a build; paths are relative to ``bundle``, which is absolute; what was not measured is null.

    With ``failures`` of single targets the first is its ``error``.
    """
    manifest = bundle.manifest
    document = {
        "schema": SCHEMA,
        "status": "failed" if failures else "ok",
        "bundle": str(bundle.path.resolve()),
        "digest": bundle.digest,
        "weights": {"source": manifest.weights.source, "trained": manifest.weights.trained},
        "reference": manifest.reference.model_dump(mode="json"),
        "targets": {name: _target(report) for name, report in bundle.reports.items()},
        "stages": {name: run.model_dump(mode="json") for name, run in manifest.stages.items()},
        "warnings": list(manifest.warnings),
        "budgets": [each.model_dump(mode="json") for each in bundle.judgements],
    }
    return {**document, "error": failures[0].document()} if failures else document


def _target(report: TargetReport) -> dict[str, Any]:
    accuracy = report.accuracy
    return {
        "status": report.status,
        "error": report.error,
        "file": report.file,
        "bytes": report.bytes,
        "executed_precision": str(report.executed_precision) if report.executed_precision else None,
        "accuracy": accuracy.model_dump(mode="json", include={"top1", "agreement", "snr_db", "max_abs_error"})
        if accuracy
        else None,
        "latency_ms": _latency(report.benchmark.latency) if report.benchmark else None,
        "speedup": _speedup(report.benchmark) if report.benchmark else None,
    }


def _latency(latency: Latency) -> dict[str, float | None]:
    return {"p50": latency.p50_ms, "p90": latency.p90_ms, "p99": latency.p99_ms}


def _speedup(benchmark: Benchmark) -> dict[str, float | None] | None:
    if not benchmark.references and benchmark.over_float is None:
        return None
    ratios = {
        "eager_fp32": benchmark.over_eager,
        "best_pytorch": benchmark.over_best,
        "float_engine": benchmark.over_float,
    }
    return {name: None if ratio is None else ratio.value for name, ratio in ratios.items()}
