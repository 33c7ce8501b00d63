"""Results as the terminal shows them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dnexport.build.document import document_from_bundle
from dnexport.bundle.verify import Bundle
from dnexport.cli.terminal import Terminal
from dnexport.errors import DnexportError
from dnexport.measure.budgets import ONE_CLASS
from dnexport.report.columns import Cell, columns_from_bundles, milliseconds, speed_rows
from dnexport.spec.budget import Judgement
from dnexport.spec.check import Checked
from dnexport.spec.comparison import Comparison
from dnexport.spec.latency import Benchmark, PartTime
from dnexport.spec.metrics import Accuracy, TargetReport, decibel_text
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.report import BundleReport, Report

_DASH = "–"
_LONG_WAIT = 0.1


def show_build(view: Terminal, bundle: Bundle, failures: Sequence[DnexportError]) -> None:
    """What each target became, and where it lies."""
    view.document(document_from_bundle(bundle, failures))
    view.say("")
    view.table(
        ["Target", "Status", "Executed", "Size", "Against PyTorch", "p50", "Speed-up over PyTorch's best"],
        [_target_row(report) for report in bundle.reports.values()],
    )
    view.say("")
    for report in bundle.reports.values():
        weak = accuracy_notes(report.accuracy) if report.accuracy else []
        pays = [report.benchmark.against_float] if report.benchmark and report.benchmark.against_float else []
        for note in (*pays, *report.notes, *weak, *(report.benchmark.notes if report.benchmark else ())):
            view.say(f"  {report.target}: {note}")
    show_judgements(view, bundle.judgements)
    view.say(f"\nbundle  {bundle.path}\ndigest  {bundle.digest}")
    if (page := bundle.path / "report.html").exists():
        view.say(f"report  {page}")


def documents(
    bundle: Bundle, measured: dict[str, dict[str, Any]], judged: Sequence[Judgement]
) -> dict[str, dict[str, Any]]:
    """What was measured of each target, the engine that it was measured on, and the budgets that were judged on it."""
    return {
        name: {
            "engine_digest": bundle.reports[name].engine_digest,
            **found,
            "budgets": [each.model_dump(mode="json") for each in judged if each.target == name],
        }
        for name, found in measured.items()
    }


def show_judgements(view: Terminal, judged: Sequence[Judgement]) -> None:
    """A line a budget."""
    for each in judged:
        view.say(f"{each}")


def report_document(report: Report, output: Path) -> dict[str, Any]:
    """Where the report lies, and what changed since the baseline."""
    found = {} if report.comparison is None else {"comparison": report.comparison.model_dump(mode="json")}
    return {"report": str(output.resolve()), **found}


def show_comparison(view: Terminal, comparison: Comparison) -> None:
    """A row a metric, then what has no noise and changed."""
    rows = [[row.engine, row.metric, row.old_text, row.new_text, str(row)] for row in comparison.rows]
    view.table(["Engine", "Metric", "Then", "Now", "Verdict"], rows)
    for fact in comparison.facts:
        if fact.changed:
            view.say(f"{fact}")


def show_inspection(view: Terminal, found: dict[str, Any]) -> None:
    """What a checkpoint is, a line each."""
    assumed = found["assumed"]
    lines = {
        "network": f"{found['name'] or 'not a published one'}: {found['arch']}",
        "layout": found["layout"],
        "parameters": f"{found['parameters']:,}, all filled; every key used",
        "ends": f"input channels {found['channels']}, classes {found['classes']}"
        + (", multi-label (a sigmoid each)" if found["multi_label"] else ""),
        "top-1": None if found["test_top1"] is None else f"{found['test_top1']:.2%} on its test images",
        "set aside": "; ".join(found["aside"]) or None,
        "input": str(Preprocess.model_validate(found["preprocess"])),
        "assumed": f"{', '.join(assumed)}: not stated by the checkpoint" if assumed else None,
        "sha-256": found["digest"],
    }
    for name, text in lines.items():
        if text is not None:
            view.say(f"{name:<11} {text}")


def show_graph_inspection(view: Terminal, found: dict[str, Any]) -> None:
    """What will hurt: a paragraph each."""
    operators = ", ".join(f"{count} {name}" for name, count in found["operators"].items())
    view.say(f"opset {found['opset']}: {operators}")
    for finding in found["findings"]:
        where = ", ".join(finding["where"][:3])
        more = f" and {len(finding['where']) - 3} more" if len(finding["where"]) > 3 else ""
        view.say(f"\n{finding['rule']}: {where}{more}")
        view.say(f"  {finding['why']}")
        view.say(f"  {finding['remedy']}")
    if not found["findings"]:
        view.say("nothing here is known to hurt in INT8 or on TensorRT")


def show_checks(view: Terminal, found: Sequence[Checked]) -> None:
    """A row a target; below, what to do and what to know."""
    view.document({each.target: each.model_dump(mode="json", exclude={"target"}) for each in found})
    view.table(["Target", "Verdict", "Why", "Self-test", "Seconds"], [_check_row(each) for each in found])
    for each in found:
        diverges = each.self_test.diverges if each.self_test else None
        for line in (diverges, each.remedy, *each.warnings):
            if line:
                view.say(f"  {each.target}: {line}")


def _check_row(checked: Checked) -> list[str]:
    test = checked.self_test
    outcome = _DASH
    if test is not None:
        snr = decibel_text(test.snr_db)
        word = "passed" if test.passed else f"FAILED, {test.floor_db:g} dB expected"
        outcome = f"{word}: {snr}, {test.agreement:.0%} agree, batch {' and '.join(map(str, test.batches))}"
    return [checked.target, checked.verdict, checked.reason, outcome, f"{checked.seconds:.1f}"]


def show_benchmarks(view: Terminal, measured: BundleReport) -> None:
    """A row a metric, a column an engine; its time by part of the network; what makes the numbers weak."""
    columns = columns_from_bundles([measured])
    rows = [[row.title, *(_cell_text(cell) for cell in row.cells)] for row in speed_rows(columns)]
    view.table(["", *(column.label for column in columns)], rows)
    benchmarks = {column.report.target: column.report.benchmark for column in columns if column.report.benchmark}
    for name, each in benchmarks.items():
        if each.parts:
            view.say("")
            view.table([f"Part of {name}", "Time", "Share", "MMACs", "Bound by"], [_part_row(p) for p in each.parts])
    for note in dict.fromkeys(note for each in benchmarks.values() for note in each.notes):
        view.say(f"  {note}")


def _cell_text(cell: Cell | None) -> str:
    return _DASH if cell is None else "; ".join(part for part in cell if part)


def _part_row(part: PartTime) -> list[str]:
    macs = _DASH if part.macs is None else f"{part.macs / 1e6:.1f}"
    return [part.part, milliseconds(part.ms), f"{part.share:.1%}", macs, part.bound or _DASH]


def _target_row(report: TargetReport) -> list[str]:
    status = f"{report.status} (companion)" if report.companion else report.status
    size = f"{report.bytes / 1e6:.1f} MB" if report.bytes else _DASH
    latency = milliseconds(report.benchmark.latency.p50_ms) if report.benchmark else _DASH
    executed = str(report.executed_precision) if report.executed_precision else "not run here"
    against = (
        accuracy_text(report.accuracy) if report.accuracy else f"graph only: {accuracy_text(report.graph_accuracy)}"
    )
    return [report.target, status, executed, size, against, latency, speedup_text(report.benchmark)]


def accuracy_text(accuracy: Accuracy | None) -> str:
    """Top-1 where labels are known, else agreement; with the centred SNR."""
    if accuracy is None:
        return _DASH
    snr = accuracy.snr_text
    if accuracy.top1 is not None and accuracy.reference_top1 is not None:
        return f"top-1 {accuracy.top1:.2%} (was {accuracy.reference_top1:.2%}), {snr}, {accuracy.samples} images"
    if (mean := accuracy.mean_auroc) is not None:
        return f"mean AUROC {mean[0]:.4f} (was {mean[1]:.4f}), {snr}, {accuracy.samples} images"
    return f"{accuracy.agreement:.1%} agree, {snr}, {accuracy.samples} images"


def accuracy_notes(accuracy: Accuracy) -> list[str]:
    """What weakens the figures."""
    notes = [f"{ONE_CLASS}; agreement and SNR compare its logits"] if accuracy.one_class else []
    if accuracy.waited_share is not None and accuracy.waited_share > _LONG_WAIT:
        notes.append(f"the engine waited for decoded images during {accuracy.waited_share:.0%} of its time")
    return notes


def speedup_text(benchmark: Benchmark | None) -> str:
    """The ratio with its interval and the form it is against."""
    if benchmark is None or benchmark.over_best is None:
        return _DASH
    return f"{benchmark.over_best}, {benchmark.best_reference.form}"
