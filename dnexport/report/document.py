"""A report as a record, for programs, and as Markdown, for pull requests."""

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from dnexport.errors import UsageError
from dnexport.report.html import Bundle, check_comparable, page_from_bundles
from dnexport.spec.metrics import TargetReport
from dnexport.spec.record import write_atomically
from dnexport.spec.report import BundleReport, Report

_DASH = "–"
# In every form: the command that makes it again.
_MARK = b"dnexport report "
_Cell = Callable[[TargetReport], str | None]


def report_from_bundles(bundles: Sequence[Bundle], paths: Sequence[str]) -> Report:
    """Bundles of one network as one record.

    Args:
        bundles: in the order of the columns.
        paths: as the user named them.

    Raises:
        UsageError: bundles whose numbers do not compare.
    """
    check_comparable(bundles)
    found = tuple(_of(bundle, path) for bundle, path in zip(bundles, paths, strict=True))
    return Report(command=f"dnexport report {shlex.join(paths)}", bundles=found)


def write_report(bundles: Sequence[Bundle], paths: Sequence[str], output: Path) -> None:
    """Write the form that the suffix of ``output`` names; an earlier report there is replaced.

    Raises:
        UsageError: another suffix, a file there that is no report, or bundles whose numbers do not compare.
        StorageError: the file system refuses.
    """
    if output.suffix not in _FORMS:
        raise UsageError(f"output {output} does not say which report it is", f"end it in {', '.join(_FORMS)}")
    if output.exists() and (not output.is_file() or _MARK not in output.read_bytes()):
        raise UsageError(f"output {output} exists and is no report of dnexport", "choose another --output")
    write_atomically(output, _FORMS[output.suffix](bundles, paths).encode())


def _of(bundle: Bundle, path: str) -> BundleReport:
    manifest = bundle.manifest
    return BundleReport(
        path=path,
        name=manifest.name,
        digest=bundle.digest,
        network=manifest.arch_name,
        parameters=manifest.arch.parameters,
        precision=str(manifest.recipe.precision),
        weights=manifest.weights,
        preprocess=manifest.preprocess,
        assumed=manifest.assumed,
        input=manifest.recipe.input,
        golden=manifest.golden,
        reference=manifest.reference,
        bench=manifest.recipe.measured,
        environment=manifest.environment,
        class_names=manifest.class_names,
        multi_label=manifest.multi_label,
        calibration=manifest.calibration,
        targets=dict(bundle.reports),
        warnings=manifest.warnings,
    )


def markdown_from_report(report: Report) -> str:
    """A table with a row an engine, verdicts on top, the machine and the command below."""
    first = report.bundles[0]
    name, weights = first.network or first.name, first.weights.file or first.weights.source
    lines = [f"### {name}, {first.parameters:,} parameters, weights {weights}", ""]
    if not first.weights.trained:
        lines += ["**Untrained**: latency and parity mean something, accuracy does not.", ""]
    judged = [each for b in report.bundles for t in b.targets.values() for each in t.judgements]
    lines += [*(f"- {each}" for each in judged), *([""] if judged else [])]
    rows = [(b.precision, t) for b in report.bundles for t in b.targets.values()]
    columns = [title for title, cell in _COLUMNS.items() if any(cell(t) is not None for _, t in rows)]
    lines += [_row("engine", *columns), _row(*["---"] * (len(columns) + 1))]
    for precision, target in rows:
        cells = [_COLUMNS[title](target) or _DASH for title in columns]
        lines.append(_row(f"{precision.upper()} on {target.target}", *cells))
    machine = first.environment
    lines += ["", f"{machine.cpu}, {machine.cores} cores, {machine.system}. `{report.command}`", ""]
    return "\n".join(lines)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _top1(target: TargetReport) -> str | None:
    accuracy = target.accuracy
    if accuracy is None or accuracy.top1 is None or accuracy.drop_interval is None:
        return None
    low, high = accuracy.drop_interval
    return f"{accuracy.top1:.2%} (lost {accuracy.drop:+.2f} points, {low:+.2f} to {high:+.2f})"


def _agreement(target: TargetReport) -> str | None:
    accuracy = target.accuracy or target.graph_accuracy
    if accuracy is None:
        return None
    where = "" if target.accuracy else "graph only: "
    return f"{where}{accuracy.agreement:.1%}, {accuracy.snr_text}"


def _latency(target: TargetReport) -> str | None:
    if target.benchmark is None:
        return None
    latency = target.benchmark.latency
    tail = (("p90", latency.p90_ms), ("p99", latency.p99_ms))
    return ", ".join([f"p50 {latency.p50_ms:.2f} ms", *(f"{name} {ms:.2f} ms" for name, ms in tail if ms is not None)])


_FORMS: dict[str, Callable[[Sequence[Bundle], Sequence[str]], str]] = {
    ".html": page_from_bundles,
    ".json": lambda bundles, paths: report_from_bundles(bundles, paths).model_dump_json(indent=1) + "\n",
    ".md": lambda bundles, paths: markdown_from_report(report_from_bundles(bundles, paths)),
}
_COLUMNS: dict[str, _Cell] = {
    "status": lambda target: target.status,
    "executed": lambda target: str(target.executed_precision) if target.executed_precision else None,
    "size": lambda target: f"{target.bytes / 1e6:.1f} MB" if target.bytes is not None else None,
    "top-1": _top1,
    "agreement with PyTorch, SNR": _agreement,
    "latency": _latency,
    "over PyTorch's best form": lambda t: str(t.benchmark.over_best) if t.benchmark and t.benchmark.over_best else None,
}
