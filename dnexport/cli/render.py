"""Results as the terminal shows them."""

from dnexport.build.document import document_from_bundle
from dnexport.build.pipeline import Built
from dnexport.cli.terminal import Terminal
from dnexport.report.html import ratio_text
from dnexport.spec.metrics import Accuracy, Benchmark, TargetReport

_DASH = "–"


def show_build(view: Terminal, built: Built) -> None:
    """What each target became, and where it lies."""
    bundle = built.bundle
    view.document(document_from_bundle(bundle))
    view.say("")
    view.table(
        ["Target", "Status", "Executed", "Size", "Against PyTorch", "p50", "Speed-up over PyTorch's best"],
        [_target_row(report) for report in bundle.reports.values()],
    )
    view.say("")
    for report in bundle.reports.values():
        for note in (*report.notes, *(report.benchmark.notes if report.benchmark else ())):
            view.say(f"  {report.target}: {note}")
    view.say(f"\nbundle  {bundle.path}\nreport  {bundle.path / 'report.html'}")


def _target_row(report: TargetReport) -> list[str]:
    status = f"{report.status} (companion)" if report.companion else report.status
    size = f"{report.bytes / 1e6:.1f} MB" if report.bytes else _DASH
    latency = f"{report.benchmark.latency.p50_ms:.2f} ms" if report.benchmark else _DASH
    executed = str(report.executed_precision) if report.executed_precision else "not run here"
    against = (
        accuracy_text(report.accuracy) if report.accuracy else f"graph only: {accuracy_text(report.graph_accuracy)}"
    )
    return [report.target, status, executed, size, against, latency, speedup_text(report.benchmark)]


def accuracy_text(accuracy: Accuracy | None) -> str:
    """Top-1 where labels are known, else agreement; with the centred SNR."""
    if accuracy is None:
        return _DASH
    snr = "exact" if accuracy.snr_db is None else f"{accuracy.snr_db:.1f} dB"
    if accuracy.top1 is not None and accuracy.reference_top1 is not None:
        return f"top-1 {accuracy.top1:.2%} (was {accuracy.reference_top1:.2%}), {snr}, {accuracy.samples} images"
    return f"{accuracy.agreement:.1%} agree, {snr}, {accuracy.samples} images"


def speedup_text(benchmark: Benchmark | None) -> str:
    """The ratio with its interval and the form it is against."""
    if benchmark is None or benchmark.over_best is None:
        return _DASH
    return f"{ratio_text(benchmark.over_best)}, {benchmark.references[-1].form}"
