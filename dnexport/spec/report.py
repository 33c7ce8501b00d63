"""``report.json``: what a report says, for programs; `docs/report.schema.json` is its JSON Schema."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from dnexport.errors import BadInput, UsageError
from dnexport.spec.comparison import Comparison
from dnexport.spec.manifest import CalibrationSummary, Golden, Manifest, ReferenceRun, Weights
from dnexport.spec.metrics import Environment, TargetReport
from dnexport.spec.precision import Precision
from dnexport.spec.preprocess import InputType, Preprocess
from dnexport.spec.recipe import Bench, toml_from_recipe
from dnexport.spec.record import Record, field_names, sentence_from_validation_error

SCHEMA = 2


class BundleReport(Record):
    """One bundle of a report.

    Attributes:
        path: as the user named it.
        name: of the bundle.
        digest: of the bundle; empty in the report that a build writes into the bundle itself.
        network: name of the arch, or None.
        parameters: of the network.
        precision: asked for.
        weights: their source.
        preprocess: of the images.
        assumed: which parts of it neither a flag nor the checkpoint stated.
        input: what the engines are fed.
        golden: the test images.
        reference: the run that engines are compared with.
        bench: how latency was measured.
        environment: the machine.
        class_names: by index of the class.
        multi_label: each class is a question of its own.
        calibration: INT8 only.
        targets: what was built, executed and measured.
        warnings: of the build.
        recipe: as resolved, in the TOML that ``dnexport build`` takes.
        bytes: of all files of the bundle; None in the report that a build writes into the bundle itself.
        measured_by: the command that measured again after the build; None for the build's own numbers.
    """

    path: str
    name: str
    digest: str
    network: str | None
    parameters: int
    precision: Precision
    weights: Weights
    preprocess: Preprocess
    assumed: tuple[str, ...]
    input: InputType
    golden: Golden
    reference: ReferenceRun
    bench: Bench
    environment: Environment
    class_names: tuple[str, ...]
    multi_label: bool
    calibration: CalibrationSummary | None
    targets: dict[str, TargetReport]
    warnings: tuple[str, ...]
    recipe: str
    bytes: int | None = None
    measured_by: str | None = None


class Report(Record):
    """One bundle or several of one network, side by side.

    Attributes:
        schema_version: of this record.
        command: that makes the report again.
        bundles: in the order of the columns.
        comparison: with an earlier report, where one was named.
    """

    schema_version: int = SCHEMA
    command: str
    bundles: tuple[BundleReport, ...] = Field(min_length=1)
    comparison: Comparison | None = None


# What must be equal for the numbers of two to stand side by side.
_IDENTITY: dict[str, Callable[[BundleReport], object]] = {
    "weights": lambda bundle: bundle.weights.digest,
    "preprocessing": lambda bundle: bundle.preprocess,
    "test images": lambda bundle: bundle.golden.test_digest,
    "bench settings": lambda bundle: bundle.bench.protocol,
}


def bundle_report(manifest: Manifest, digest: str, targets: Mapping[str, TargetReport], path: str) -> BundleReport:
    """A bundle as a report shows it.

    Args:
        manifest: of the bundle.
        digest: of the bundle.
        targets: what was measured of each.
        path: as the user named it.
    """
    return BundleReport(
        path=path,
        name=manifest.name,
        digest=digest,
        network=manifest.arch_name,
        parameters=manifest.arch.parameters,
        precision=manifest.recipe.precision,
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
        targets=dict(targets),
        warnings=manifest.warnings,
        recipe=toml_from_recipe(manifest.recipe),
    )


def report_from_bundles(bundles: Sequence[BundleReport], command: str, comparison: Comparison | None = None) -> Report:
    """Bundles of one network side by side.

    Args:
        bundles: in the order of the columns; one bundle may stand there several times, measured on several machines.
        command: that makes the report again.
        comparison: with an earlier report.

    Raises:
        UsageError: numbers that may not stand side by side, with the first difference.
    """
    first = bundles[0]
    for what, value in _IDENTITY.items():
        odd = next((each for each in bundles if value(each) != value(first)), None)
        if odd is not None:
            raise UsageError(f"bundles {first.path} and {odd.path} differ in their {what}", "report on each alone")
    return Report(command=command, bundles=tuple(bundles), comparison=comparison)


def json_from_report(report: Report) -> str:
    """The content of ``report.json``."""
    return report.model_dump_json(indent=1) + "\n"


def report_from_file(path: Path) -> Report:
    """Read a ``report.json``.

    Raises:
        BadInput: it cannot be read, is no report, or one of another schema version.
    """
    again = "write it again with 'dnexport report BUNDLE -o FILE.json'"
    try:
        content = json.loads(path.read_bytes())
    except OSError as exc:
        raise BadInput(f"report {path} cannot be read: {(exc.strerror or str(exc)).lower()}", "check the path") from exc
    except ValueError as exc:
        raise BadInput(f"{path} is no report: it is not JSON", again) from exc
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version is None:
        raise BadInput(f"{path} is no report: it names no schema_version", again)
    if version != SCHEMA:
        raise BadInput(f"report {path} has schema version {version}, this version of dnexport reads {SCHEMA}", again)
    try:
        return Report.model_validate(content)
    except ValidationError as exc:
        what, _ = sentence_from_validation_error(exc, field_names(Report))
        raise BadInput(f"{path} is no report of schema version {SCHEMA}: {what}", again) from exc


def report_schema() -> dict[str, Any]:
    """The JSON Schema of ``report.json``."""
    return Report.model_json_schema(mode="serialization")
