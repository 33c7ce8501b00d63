"""``report.html``: one self-contained page over one or several bundles."""

import shlex
from collections.abc import Sequence
from importlib.resources import files

import jinja2

from dnexport.report.columns import (
    Column,
    accuracy_rows,
    columns_from_bundles,
    megabytes,
    milliseconds,
    notes_of,
    run_of,
    speed_rows,
    verdict_on,
    verdicts_of,
)
from dnexport.report.plots import Distribution, Sweep, latency_plot, sweep_plot
from dnexport.spec.latency import Conditions
from dnexport.spec.metrics import Environment, Shown, decibel_text
from dnexport.spec.report import BundleReport, Report


def page_from_report(report: Report) -> str:
    """Render the bundles of one network side by side."""
    columns = columns_from_bundles(report.bundles)
    engines = [column for column in columns if column.measured]
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            report=report,
            first=report.bundles[0],
            bundles=report.bundles,
            engines=engines,
            others=[column for column in columns if not column.measured],
            accuracy=accuracy_rows(engines),
            speed=speed_rows(engines),
            benchmarks=[column.report.benchmark for column in engines if column.report.benchmark],
            warnings=list(dict.fromkeys(w for bundle in report.bundles for w in bundle.warnings)),
            notes=notes_of(engines),
            latencies=_latencies(engines),
            sweep=_sweep(engines),
            machines=_machines(report.bundles),
            commands=list(dict.fromkeys(_bench_command(bundle) for bundle in report.bundles)),
            judgements=[each for column in columns for each in verdicts_of(column)],
            verdict=verdict_on,
            says=_says,
            conditions=_conditions,
        )
    )


def _machines(bundles: Sequence[BundleReport]) -> list[Environment]:
    """The machines that were measured on, each once; how busy one was does not make it another."""
    found = [bundle.environment.model_copy(update={"load_average": None}) for bundle in bundles]
    return [machine for index, machine in enumerate(found) if machine not in found[:index]]


def _bench_command(bundle: BundleReport) -> str:
    return bundle.measured_by or shlex.join(["dnexport", "bench", bundle.path])


def _latencies(engines: Sequence[Column]) -> str | None:
    rows = []
    seen: set[tuple[object, str]] = set()
    for column in engines:
        benchmark = column.report.benchmark
        if benchmark is None:
            continue
        run = f" (run of {_short(column)})" if len(engines) > 1 else ""
        for reference in benchmark.references:  # engines of one run share theirs
            if (run_of(benchmark), reference.form) not in seen:
                seen.add((run_of(benchmark), reference.form))
                rows.append(Distribution(f"PyTorch {reference.form}{run}", "reference", reference.latency.samples_ms))
        rows.append(Distribution(column.label, column.precision, benchmark.latency.samples_ms))
    return latency_plot(rows) if rows else None


def _sweep(engines: Sequence[Column]) -> str | None:
    found: list[Sweep] = []
    for column in engines:
        if column.report.benchmark is None or not column.report.benchmark.offline:
            continue
        where = f" ({column.where})" if column.where else ""
        beside = f"PyTorch's best form{where}"
        if any(each.beside == beside for each in found):
            beside = ""  # once a machine
        found.append(Sweep(column.label, column.precision, column.report.benchmark.offline, beside))
    return sweep_plot(found) if found else None


def _short(column: Column) -> str:
    return f"{column.precision}, {column.where}" if column.where else column.precision


def _says(column: Column, shown: Shown) -> str:
    """What is to be seen in a thumbnail, for those who do not see it too."""
    label = "" if shown.label is None else f", labelled {column.class_name(shown.label)}"
    answer = f"PyTorch and the engine say {column.class_name(shown.engine)}"
    if shown.reference != shown.engine:
        answer = f"PyTorch says {column.class_name(shown.reference)}, the engine {column.class_name(shown.engine)}"
    return f"Test image {shown.index}{label}: {answer}"


def _conditions(reading: Conditions) -> str:
    """One reading in a line."""
    parts = {
        "load {:.2f}": reading.load_average,
        "processors {:.0f} MHz": reading.cpu_mhz,
        "GPU {:.0f} MHz": reading.gpu_mhz,
        "{:.0f} W": reading.gpu_watts,
        "{:.0f} °C": reading.gpu_celsius,
    }
    known = [form.format(value) for form, value in parts.items() if value is not None]
    return ", ".join([*known, *(f"held down: {reason}" for reason in reading.gpu_throttled)])


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files("dnexport.report").joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: "–" if share is None else f"{share:.2%}"
    environment.filters["ms"] = milliseconds
    environment.filters["db"] = decibel_text
    environment.filters["mb"] = megabytes
    return environment
