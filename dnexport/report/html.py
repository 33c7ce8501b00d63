"""``report.html``: one self-contained page over one or several bundles."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Protocol, runtime_checkable

import jinja2

from dnexport.errors import UsageError
from dnexport.report.plots import Distribution, latency_plot
from dnexport.spec.latency import Benchmark
from dnexport.spec.manifest import Manifest
from dnexport.spec.metrics import Accuracy, Environment, TargetReport, decibel_text


@runtime_checkable
class Bundle(Protocol):
    """What the page needs of a bundle."""

    @property
    def path(self) -> Path:
        """Its directory."""

    @property
    def manifest(self) -> Manifest:
        """What it is."""

    @property
    def digest(self) -> str:
        """SHA-256 of its manifest."""

    @property
    def reports(self) -> Mapping[str, TargetReport]:
        """One a target."""


_LINES = ((0.999, "keeps MLPerf's 99.9\u00a0%"), (0.99, "keeps MLPerf's 99\u00a0%"))
# What must be equal for two bundles' numbers to stand side by side.
_IDENTITY: dict[str, Callable[[Manifest], object]] = {
    "weights": lambda manifest: manifest.weights.digest,
    "preprocessing": lambda manifest: manifest.preprocess,
    "test images": lambda manifest: manifest.golden.test_digest,
    "bench settings": lambda manifest: manifest.recipe.bench,
}


@dataclass(frozen=True)
class Column:
    """One engine of the comparison."""

    bundle: Bundle
    report: TargetReport

    @property
    def precision(self) -> str:
        """As asked."""
        return str(self.bundle.manifest.recipe.precision)


def check_comparable(bundles: Sequence[Bundle]) -> None:
    """Refuse bundles whose numbers may not stand side by side.

    Raises:
        UsageError: the first difference.
    """
    first = bundles[0].manifest
    for what, value in _IDENTITY.items():
        odd = next((b for b in bundles if value(b.manifest) != value(first)), None)
        if odd is not None:
            raise UsageError(f"bundles {bundles[0].path} and {odd.path} differ in their {what}", "report on each alone")


def page_from_bundles(bundles: Sequence[Bundle], paths: Sequence[str]) -> str:
    """Render bundles of one network side by side.

    Args:
        bundles: in the order of the columns.
        paths: as the user named them, for the command that reproduces the page.

    Raises:
        UsageError: bundles whose numbers do not compare.
    """
    check_comparable(bundles)
    first = bundles[0].manifest
    reports = [Column(bundle, report) for bundle in bundles for report in bundle.reports.values()]
    engines = [column for column in reports if column.report.status == "validated"]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            manifest=first,
            machines=_machines(bundles),
            bundles=bundles,
            engines=engines,
            others=[column for column in reports if column.report.status != "validated"],
            warnings=list(dict.fromkeys(w for bundle in bundles for w in bundle.manifest.warnings)),
            notes=_notes(engines),
            plot=_plot(engines),
            command=f"dnexport report {shlex.join(paths)}",
            judgements=[each for bundle in bundles for r in bundle.reports.values() for each in r.judgements],
            verdict=[_verdict(column) for column in engines],
        )
    )


def _machines(bundles: Sequence[Bundle]) -> list[Environment]:
    """The machines that the bundles were made on, each once; how busy one was does not make it another."""
    found = [bundle.manifest.environment.model_copy(update={"load_average": None}) for bundle in bundles]
    return [machine for index, machine in enumerate(found) if machine not in found[:index]]


def _verdict(column: Column) -> str:
    accuracy, benchmark = column.report.accuracy, column.report.benchmark
    parts = []
    if accuracy and accuracy.top1 is not None and accuracy.reference_top1 is not None:
        changed = (accuracy.lost or 0) + (accuracy.gained or 0)
        parts.append(
            f"{accuracy.top1:.2%} top-1 against PyTorch's {accuracy.reference_top1:.2%}"
            f" ({accuracy.lost} lost, {accuracy.gained} gained of {accuracy.labelled})"
            if changed
            else f"{accuracy.top1:.2%} top-1, every one of {accuracy.labelled} answers right or wrong as in PyTorch"
        )
    elif accuracy and (mean := accuracy.mean_auroc) is not None:
        parts.append(f"mean AUROC {mean[0]:.4f} against PyTorch's {mean[1]:.4f} over {accuracy.labelled} images")
    elif accuracy:
        parts.append(f"{accuracy.agreement:.1%} of {accuracy.samples} answers agree with PyTorch's")
    if benchmark and benchmark.over_best:
        parts.append(f"{benchmark.over_best} as fast as PyTorch's best form here")
    return "; ".join(parts)


def _drop(accuracy: Accuracy) -> str:
    if accuracy.drop_interval is None:
        return "–"
    low, high = accuracy.drop_interval
    return f"{accuracy.drop:+.2f} ({low:+.2f} to {high:+.2f})"


def _kept(accuracy: Accuracy) -> str:
    """The share of the reference's top-1, and which of MLPerf's lines it keeps."""
    if accuracy.top1 is None or not accuracy.reference_top1:
        return "–"
    share = accuracy.top1 / accuracy.reference_top1
    line = next((words for least, words in _LINES if share >= least), "below MLPerf's 99\u00a0%")
    return f"{share:.2%}, {line}"


def _plot(engines: Sequence[Column]) -> str | None:
    rows = []
    for column in engines:
        benchmark = column.report.benchmark
        if benchmark is None:
            continue
        run = f" (run of {column.precision})" if len(engines) > 1 else ""
        rows += [
            Distribution(f"PyTorch {r.form}{run}", "reference", r.latency.samples_ms) for r in benchmark.references
        ]
        label = f"{column.precision.upper()} on {column.report.target}"
        rows.append(Distribution(label, column.precision, benchmark.latency.samples_ms))
    return latency_plot(rows) if rows else None


def _notes(engines: Sequence[Column]) -> list[str]:
    benchmarks = [column.report.benchmark for column in engines if column.report.benchmark]
    notes = list(dict.fromkeys(note for benchmark in benchmarks for note in benchmark.notes))
    if len({_eager_ms(b) for b in benchmarks}) > 1:
        notes.append(
            "each engine was measured in a run of its own beside PyTorch; compare the ratios, not the milliseconds"
        )
    return notes


def _eager_ms(benchmark: Benchmark) -> float | None:
    return benchmark.references[0].latency.p50_ms if benchmark.references else None


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files("dnexport.report").joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{share:.2%}"
    environment.filters["area"] = lambda value: "–" if value is None else f"{value:.4f}"
    environment.filters["ms"] = lambda value: "withheld" if value is None else f"{value:.2f} ms"
    environment.filters["drop"] = _drop
    environment.filters["kept"] = _kept
    environment.filters["db"] = decibel_text
    environment.filters["mb"] = lambda value: "–" if value is None else f"{value / 1e6:.1f} MB"
    environment.filters["ratio"] = lambda value: "–" if value is None else str(value)
    return environment
