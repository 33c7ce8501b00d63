"""The engines of a report as columns, and what is said of each in a table's cells, whatever the table is written in."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

from dnexport.spec.budget import Verdict
from dnexport.spec.latency import Benchmark, Latency
from dnexport.spec.metrics import Accuracy, TargetReport, decibel_text
from dnexport.spec.report import BundleReport

_LINES = (99.9, 99.0)  # MLPerf's, in percent of the reference's top-1


@dataclass(frozen=True)
class Column:
    """One engine.

    Attributes:
        bundle: that it is of.
        report: what is known of it.
        machine: it was measured on; empty where all columns were measured on the same one.
        which: of several bundles with such an engine, as the user named it; else empty.
    """

    bundle: BundleReport
    report: TargetReport
    machine: str = ""
    which: str = ""

    @property
    def precision(self) -> str:
        """As asked."""
        return str(self.bundle.precision)

    @property
    def label(self) -> str:
        """In a line."""
        return f"{self.precision.upper()} on {self.report.target}{f' ({self.where})' if self.where else ''}"

    @property
    def where(self) -> str:
        """Machine and bundle, as far as they tell columns apart."""
        return ", ".join(part for part in (self.machine, self.which) if part)

    def class_name(self, index: int) -> str:
        """Of a class."""
        names = self.bundle.class_names
        return names[index] if 0 <= index < len(names) else f"class {index}"

    @property
    def measured(self) -> bool:
        """Whether anything was."""
        return self.report.accuracy is not None or self.report.benchmark is not None


class Cell(NamedTuple):
    """Of a table.

    Attributes:
        text: what was measured.
        note: what helps to read it.
    """

    text: str
    note: str = ""


class Row(NamedTuple):
    """Of a table.

    Attributes:
        title: of the metric.
        reference: PyTorch's.
        cells: one an engine; None where it was not measured.
    """

    title: str
    reference: str
    cells: tuple[Cell | None, ...]


def columns_from_bundles(bundles: Sequence[BundleReport]) -> list[Column]:
    """Every target of every bundle, in order."""
    several = any(bundle.environment.hardware != bundles[0].environment.hardware for bundle in bundles)
    columns = [
        Column(bundle, target, bundle.environment.short_name if several else "")
        for bundle in bundles
        for target in bundle.targets.values()
    ]
    count = Counter(column.label for column in columns)
    return [replace(each, which=each.bundle.path) if count[each.label] > 1 else each for each in columns]


def accuracy_rows(columns: Sequence[Column]) -> list[Row]:
    """What the engines lost."""
    known = [column.report.accuracy for column in columns if column.report.accuracy is not None]
    labels = next((each for each in known if each.reference_calibration_error is not None), None)
    areas = next((each for each in known if each.auroc is not None), None)
    # Engines that answered other images, as on a device that has the bundle's samples only, share no reference.
    top1 = {each.reference_top1 for each in known}
    reference = {
        "Top-1": _percent(top1.pop() if len(top1) == 1 else None),
        "Calibration error": _percent(labels.reference_calibration_error if labels else None),
        "Mean AUROC": f"{areas.mean_auroc[1]:.4f}" if areas and areas.mean_auroc else "",
    }
    by_class = [
        Row(
            f"AUROC, {name}",
            _area(areas.reference_auroc, index),
            tuple(_of_accuracy(column, lambda a, i=index: Cell(_area(a.auroc, i) or "–")) for column in columns),  # type: ignore[misc]
        )
        for index, name in enumerate(columns[0].bundle.class_names if areas else ())
        if areas is not None
    ]
    whole = _rows(
        columns,
        {
            title: partial(lambda cell, column: _of_accuracy(column, partial(cell, column)), cell)
            for title, cell in _ACCURACY.items()
        },
        reference,
    )
    after = next((index for index, row in enumerate(whole) if row.title == "Mean AUROC"), -1) + 1
    return [
        *_rows(columns, {"Executed precision": _executed}, {"Executed precision": "f32"}),
        *whole[:after],
        *by_class,
        *whole[after:],
        *_rows(columns, {"Same graph on another runtime": _cross_check}),
    ]


def speed_rows(columns: Sequence[Column]) -> list[Row]:
    """What they gained, and what they take."""
    benched = {title: partial(_of_benchmark, cell) for title, cell in _SPEED.items()}
    return _rows(columns, {**benched, "Engine size": _size, "Bundle size": _bundle_size})


def verdicts_of(column: Column) -> list[tuple[str, Verdict]]:
    """The budgets of an engine in words, and what became of each."""
    return [
        (str(each).replace(f" on {each.target}: ", f", {column.label}: ", 1), each.verdict)
        for each in column.report.judgements
    ]


def verdict_on(column: Column) -> str:
    """What a reader wants to know first."""
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
        parts.append(f"{benchmark.over_best} as fast as PyTorch's best form {'there' if column.machine else 'here'}")
    if benchmark and benchmark.against_float:
        parts.append(benchmark.against_float)
    return "; ".join(parts)


def notes_of(engines: Sequence[Column]) -> list[str]:
    """What makes numbers weak, or is to be known beside them; what several engines share once."""
    benchmarks = [column.report.benchmark for column in engines if column.report.benchmark]
    notes = [f"{column.label}: {pays}" for column in engines if (pays := _pays(column))]
    notes += [f"{column.label}: {note}" for column in engines for note in column.report.notes]
    notes += dict.fromkeys(note for benchmark in benchmarks for note in benchmark.notes)
    if len({run_of(benchmark) for benchmark in benchmarks}) > 1:
        notes.append(
            "each engine was measured in a run of its own beside PyTorch; compare the ratios, not the milliseconds"
        )
    return notes


def _pays(column: Column) -> str | None:
    return column.report.benchmark.against_float if column.report.benchmark else None


def run_of(benchmark: Benchmark) -> object:
    """Equal for engines that were measured in one run: they share its conditions."""
    return benchmark.conditions


def milliseconds(value: float | None) -> str:
    """To a hundredth."""
    return "withheld" if value is None else f"{value:.2f} ms"


def megabytes(value: int | None) -> str:
    """10⁶ bytes, or 10⁹."""
    if value is None:
        return "–"
    return (
        f"{value / 1e9:.1f} GB"
        if value >= 1e9
        else f"{value / 1e6:.1f} MB"
        if value >= 1e5
        else f"{value / 1e3:.1f} kB"
    )


def _rows(
    columns: Sequence[Column],
    cells: dict[str, Callable[[Column], Cell | None]],
    reference: dict[str, str] | None = None,
) -> list[Row]:
    """A row a metric that any column has."""
    made = ((title, tuple(cell(column) for column in columns)) for title, cell in cells.items())
    return [Row(title, (reference or {}).get(title, ""), found) for title, found in made if any(found)]


def _of_accuracy(column: Column, cell: Callable[[Accuracy], Cell | None]) -> Cell | None:
    return None if column.report.accuracy is None else cell(column.report.accuracy)


def _of_benchmark(cell: Callable[[Benchmark], Cell | None], column: Column) -> Cell | None:
    return None if column.report.benchmark is None else cell(column.report.benchmark)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _area(areas: Sequence[float | None] | None, index: int) -> str:
    return "" if areas is None or areas[index] is None else f"{areas[index]:.4f}"


def _share(value: float | None) -> Cell | None:
    return None if value is None else Cell(f"{value:.2%}")


def _executed(column: Column) -> Cell | None:
    return Cell(str(column.report.executed_precision)) if column.report.executed_precision else None


def _size(column: Column) -> Cell | None:
    return Cell(megabytes(column.report.bytes)) if column.report.bytes is not None else None


def _bundle_size(column: Column) -> Cell | None:
    return Cell(megabytes(column.bundle.bytes)) if column.bundle.bytes is not None else None


def _cross_check(column: Column) -> Cell | None:
    check = column.report.cross_check
    if check is None:
        return None
    far = check.snr_db is not None and check.snr_db < check.floor_db
    itself = f", which is at {decibel_text(check.other_snr_db)} of PyTorch itself" if far else ""
    return Cell(decibel_text(check.snr_db), f"against {check.against}{itself}")


def _mean_auroc(_: Column, accuracy: Accuracy) -> Cell | None:
    mean = accuracy.mean_auroc
    return None if mean is None else Cell(f"{mean[0]:.4f}")


def _drop(_: Column, accuracy: Accuracy) -> Cell | None:
    if accuracy.drop_interval is None:
        return None
    low, high = accuracy.drop_interval
    return Cell(f"{accuracy.drop:+.2f} ({low:+.2f} to {high:+.2f})")


def _kept(_: Column, accuracy: Accuracy) -> Cell | None:
    """The share of the reference's top-1, and which of MLPerf's lines the whole 95 % interval keeps."""
    if accuracy.top1 is None or not accuracy.reference_top1 or accuracy.drop_interval is None:
        return None
    low, high = (1 - drop / 100 / accuracy.reference_top1 for drop in reversed(accuracy.drop_interval))
    kept = next((line for line in _LINES if low >= line / 100), None)
    open_ = next((line for line in _LINES if low < line / 100 <= high), None)
    words = [f"keeps MLPerf's {kept:g}\u00a0%"] if kept else []
    if open_ is not None:
        words.append(f"MLPerf's {open_:g}\u00a0% is not decided by {accuracy.labelled} images")
    share = f"{accuracy.top1 / accuracy.reference_top1:.2%} ({low:.2%} to {high:.2%})"
    return Cell(share, "; ".join(words) or f"below MLPerf's {_LINES[-1]:g}\u00a0%")


def _worst(column: Column, accuracy: Accuracy) -> Cell | None:
    if accuracy.drop_interval is None:
        return None
    worst = accuracy.worst_classes
    lost = (f"{column.class_name(each.index)} −{each.lost - each.gained} of {each.images}" for each in worst)
    return Cell("", ", ".join(lost) or "none")


def _surest(column: Column, accuracy: Accuracy) -> Cell | None:
    if column.bundle.multi_label:
        return None
    if accuracy.flipped_margin is None:
        return Cell("none changed")
    return Cell(f"{accuracy.flipped_margin:.2%}", "ahead of the second class in PyTorch")


def _quantile(name: str, benchmark: Benchmark) -> Cell:
    latency = benchmark.latency
    value = latency.p90_ms if name == "p90" else latency.p99_ms
    bound = latency.p90_bound_ms if name == "p90" else latency.p99_bound_ms
    notes = [f"≤ {milliseconds(bound)}"] if bound is not None else []
    if name == "p99":
        notes.append(f"of {len(latency.samples_ms)} queries")
    return Cell(milliseconds(value), " ".join(notes))


def _speedup(benchmark: Benchmark, *, best: bool) -> Cell | None:
    if not benchmark.references:
        return None
    reference = benchmark.best_reference if best else benchmark.references[0]
    ratio = benchmark.over_best if best else benchmark.over_eager
    return Cell(
        "withheld" if ratio is None else str(ratio),
        f"{reference.form}, {milliseconds(reference.latency.p50_ms)} in the same run",
    )


def _over_float(benchmark: Benchmark) -> Cell | None:
    beside = benchmark.float_engine
    if beside is None or benchmark.over_float is None:
        return None
    return Cell(str(benchmark.over_float), f"{beside.form}, {milliseconds(beside.latency.p50_ms)} in the same run")


def _device(benchmark: Benchmark) -> Cell:
    times = benchmark.device
    if times is None:
        return Cell("", "one wall clock: this runtime has no device events")
    parts = {"enqueue": times.enqueue_ms, "H2D": times.h2d_ms, "compute": times.compute_ms, "D2H": times.d2h_ms}
    p99 = "" if times.compute_p99_ms is None else f"compute p99 {milliseconds(times.compute_p99_ms)}"
    return Cell(" · ".join(f"{name} {value:.3f}" for name, value in parts.items()) + " ms", p99)


def _eights(benchmark: Benchmark) -> Cell | None:
    latency: Latency | None = benchmark.multi_stream
    if latency is None:
        return None
    bound = f"≤ {milliseconds(latency.p99_bound_ms)} " if latency.p99_bound_ms is not None else ""
    return Cell(
        milliseconds(latency.p99_ms), f"{bound}of {len(latency.samples_ms)} queries, p50 {milliseconds(latency.p50_ms)}"
    )


def _best_batch(benchmark: Benchmark) -> Cell | None:
    best = benchmark.best_batch
    if best is None:
        return None
    interval = "" if best.low is None or best.high is None else f"{best.low:,.0f} to {best.high:,.0f}"
    beside = "" if best.reference is None else f"; PyTorch's best form {best.reference:,.0f}"
    return Cell(f"{best.images_per_second:,.0f} images/s at batch {best.batch}", f"{interval}{beside}")


def _cold(benchmark: Benchmark) -> Cell | None:
    start = benchmark.cold_start
    if start is None:
        return None
    return Cell(
        f"{start.open_ms + start.first_query_ms:,.0f} ms",
        f"{start.open_ms:,.0f} to open, {start.first_query_ms:,.0f} for the first query; {start.starts} starts",
    )


def _energy(benchmark: Benchmark) -> Cell | None:
    used = benchmark.millijoules_per_image
    return None if used is None else Cell(f"{used:.3g} mJ an image", "of the GPU")


def _waited(_: Column, accuracy: Accuracy) -> Cell | None:
    if accuracy.waited_share is None:
        return None
    return Cell(f"{accuracy.waited_share:.0%}", "of the engine's time, while it was validated")


_ACCURACY: dict[str, Callable[[Column, Accuracy], Cell | None]] = {
    "Mean AUROC": _mean_auroc,
    "Top-1": lambda _, accuracy: _share(accuracy.top1),
    "Loss of top-1, points": _drop,
    "Keeps of PyTorch's top-1": _kept,
    "Calibration error": lambda _, accuracy: _share(accuracy.calibration_error),
    "Classes that lost most": _worst,
    "Top-5": lambda _, accuracy: _share(accuracy.top5),
    "Agreement with PyTorch": lambda _, accuracy: Cell(f"{accuracy.agreement:.2%}", f"of {accuracy.samples}"),
    "Surest answer that changed": _surest,
    "Divergence of the softmax": lambda _, accuracy: (
        None if accuracy.divergence is None else Cell(f"{accuracy.divergence:.2g} nats")
    ),
    "Logit SNR, centred": lambda _, accuracy: Cell(accuracy.snr_text),
    "Waited for images": _waited,
    "Largest |Δlogit|": lambda _, accuracy: Cell(f"{accuracy.max_abs_error:.3g}", f"of {accuracy.max_abs_logit:.3g}"),
}


def _warm_up(benchmark: Benchmark) -> Cell:
    return Cell(f"{benchmark.latency.warm_up_queries} queries", "before the first that counts, over all starts")


_SPEED: dict[str, Callable[[Benchmark], Cell | None]] = {
    "Speed-up over PyTorch's best form": lambda benchmark: _speedup(benchmark, best=True),
    "Speed-up over PyTorch eager": lambda benchmark: _speedup(benchmark, best=False),
    "Speed-up over the float engine of the same runtime": lambda benchmark: _over_float(benchmark),
    "Latency p50": lambda benchmark: Cell(
        milliseconds(benchmark.latency.p50_ms), f"batch {benchmark.latency.batch}, {benchmark.latency.threads} threads"
    ),
    "Latency p90": partial(_quantile, "p90"),
    "Latency p99": partial(_quantile, "p99"),
    "p99 of queries of eight": _eights,
    "Where the time goes": _device,
    "Throughput, one query at a time": lambda benchmark: Cell(f"{benchmark.latency.images_per_second:,.0f} images/s"),
    "Throughput at the best batch": _best_batch,
    "Cold start": _cold,
    "Warm-up": _warm_up,
    "Energy": _energy,
    "Peak memory": lambda benchmark: (
        None if benchmark.peak_memory_bytes is None else Cell(megabytes(benchmark.peak_memory_bytes), "of the process")
    ),
    "Runtime on disk": lambda benchmark: (
        None if benchmark.install_bytes is None else Cell(megabytes(benchmark.install_bytes))
    ),
}
