"""``report.json``: what a report says, for programs; `docs/report.schema.json` is its JSON Schema."""

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from dnexport.errors import BadInput
from dnexport.spec.manifest import CalibrationSummary, Golden, ReferenceRun, Weights
from dnexport.spec.metrics import Environment, TargetReport
from dnexport.spec.preprocess import InputType, Preprocess
from dnexport.spec.recipe import Bench
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
    """

    path: str
    name: str
    digest: str
    network: str | None
    parameters: int
    precision: str
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


class Report(Record):
    """One bundle or several of one network, side by side.

    Attributes:
        schema_version: of this record.
        command: that makes the report again.
        bundles: in the order of the columns.
    """

    schema_version: int = SCHEMA
    command: str
    bundles: tuple[BundleReport, ...]


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
