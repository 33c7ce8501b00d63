"""A report's forms: JSON for programs, Markdown for pull requests, the page; only the page needs jinja2, matplotlib."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from dnexport.errors import TargetUnavailable, UsageError
from dnexport.report.columns import Column, accuracy_rows, columns_from_bundles, notes_of, speed_rows, verdicts_of
from dnexport.spec.comparison import Comparison
from dnexport.spec.record import write_atomically
from dnexport.spec.report import BundleReport, Report, json_from_report

_DASH = "–"
# In every form: the command that makes it again.
_MARK = re.compile(rb"dnexport (report|bench|validate) ")
_PAGE_NEEDS = ("jinja2", "matplotlib")


def check_output(output: Path) -> None:
    """Refuse, before anything is measured, what `write_report` would refuse after it.

    Raises:
        UsageError: a suffix that names no form, or a file there that is no report.
        TargetUnavailable: a page, which needs packages that are not installed.
    """
    if output.suffix not in _FORMS:
        raise UsageError(f"output {output} does not say which report it is", f"end it in {', '.join(_FORMS)}")
    if output.exists() and (not output.is_file() or _MARK.search(output.read_bytes()) is None):
        raise UsageError(f"output {output} exists and is no report of dnexport", "choose another --output")
    missing = [name for name in _PAGE_NEEDS if output.suffix == ".html" and find_spec(name) is None]
    if missing:
        raise TargetUnavailable(
            f"a page needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            f"pip install {' '.join(missing)}, or write a .json here and 'dnexport report FILE.json' elsewhere",
        )


def write_report(report: Report, output: Path) -> None:
    """Write the form that the suffix of ``output`` names; an earlier report there is replaced.

    Raises:
        UsageError, TargetUnavailable: as `check_output`.
        StorageError: the file system refuses.
    """
    check_output(output)
    write_atomically(output, _FORMS[output.suffix](report).encode())


def markdown_from_report(report: Report) -> str:
    """A table with a row an engine, verdicts on top, the machine and the command below."""
    first = report.bundles[0]
    name, weights = first.network or first.name, first.weights.file or first.weights.source
    lines = [f"### {_plain(name)}, {first.parameters:,} parameters, weights {_plain(weights)}", ""]
    if not first.weights.trained:
        lines += ["**Untrained**: latency and parity mean something, accuracy does not.", ""]
    warnings = dict.fromkeys(warning for bundle in report.bundles for warning in bundle.warnings)
    lines += [*(f"- **Warning**: {_plain(warning)}" for warning in warnings), *([""] if warnings else [])]
    columns = columns_from_bundles(report.bundles)
    judged = [text for column in columns for text, _ in verdicts_of(column)]
    lines += [*(f"- {_plain(text)}" for text in judged), *([""] if judged else [])]
    notes = [f"- {_plain(note)}" for note in notes_of(columns)]
    if report.comparison is not None:
        lines += [*_comparison(report.comparison), ""]
    facts = [(column.label, _facts(column)) for column in columns]
    titles = [title for title in _TITLES if any(title in found for _, found in facts)]
    lines += [_row("engine", *(_TITLES[title] for title in titles)), _row(*["---"] * (len(titles) + 1))]
    lines += [_row(label, *(found.get(title, _DASH) for title in titles)) for label, found in facts]
    lines += ["", *notes, *([""] if notes else [])]
    lines += [*dict.fromkeys(_machine(bundle) for bundle in report.bundles), "", f"`{report.command}`", ""]
    return "\n".join(lines)


def _facts(column: Column) -> dict[str, str]:
    """What the table says of one engine, by title."""
    rows = [*accuracy_rows([column]), *speed_rows([column])]
    found = {row.title: row.cells[0].text or row.cells[0].note for row in rows if row.cells[0] is not None}
    graph = column.report.graph_accuracy
    if graph is not None and "Agreement with PyTorch" not in found:
        found["Agreement with PyTorch"] = f"graph only: {graph.agreement:.1%}"
    return {"status": column.report.status, **found}


def _comparison(comparison: Comparison) -> list[str]:
    lines = [f"Against `{_plain(comparison.baseline)}`:", ""]
    lines += [_row("engine", "metric", "verdict"), _row("---", "---", "---")]
    lines += [_row(row.engine, row.metric, _bold(str(row), row.verdict == "worse")) for row in comparison.rows]
    changed = [fact for fact in comparison.facts if fact.changed]
    lines += ["", *(f"- {_plain(str(fact))}" for fact in changed)]
    return lines


def _bold(text: str, strong: bool) -> str:
    return f"**{text}**" if strong else text


def _machine(bundle: BundleReport) -> str:
    machine = bundle.environment
    gpu = f"{machine.gpu['gpu']}, " if "gpu" in machine.gpu else ""
    return _plain(f"{gpu}{machine.cpu}, {machine.cores} cores, {machine.system}.")


def _row(*cells: str) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """In one line, and no HTML: names in a report come from elsewhere."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text.replace("\n", " "))


def _page(report: Report) -> str:
    from dnexport.report.html import page_from_report  # a device has neither jinja2 nor matplotlib

    return page_from_report(report)


_FORMS: dict[str, Callable[[Report], str]] = {
    ".html": _page,
    ".json": json_from_report,
    ".md": markdown_from_report,
}
# By the title of the rows: the heading in the table.
_TITLES = {
    "status": "status",
    "Executed precision": "executed",
    "Engine size": "size",
    "Top-1": "top-1",
    "Loss of top-1, points": "lost, points",
    "Agreement with PyTorch": "agreement with PyTorch",
    "Logit SNR, centred": "SNR",
    "Latency p50": "p50",
    "Latency p99": "p99",
    "Speed-up over PyTorch's best form": "over PyTorch's best form",
    "p99 of queries of eight": "p99 of eight",
    "Throughput at the best batch": "best batch",
    "Cold start": "cold start",
    "Peak memory": "memory",
}
