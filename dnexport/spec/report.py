"""``report.json``: what a report says, for programs; `docs/report.schema.json` is its JSON Schema."""

from typing import Any

from dnexport.spec.manifest import Golden, ReferenceRun, Weights
from dnexport.spec.metrics import Environment, TargetReport
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.recipe import Bench
from dnexport.spec.record import Record

SCHEMA = 1


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
        golden: the test images.
        reference: the run that engines are compared with.
        bench: how latency was measured.
        environment: the machine.
        class_names: by index of the class.
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
    golden: Golden
    reference: ReferenceRun
    bench: Bench
    environment: Environment
    class_names: tuple[str, ...]
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


def report_schema() -> dict[str, Any]:
    """The JSON Schema of ``report.json``."""
    return Report.model_json_schema(mode="serialization")
