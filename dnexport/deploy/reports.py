"""Reports of bundles, of files that earlier reports left, and of what was just measured here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dnexport.bundle.verify import GOLDEN, Bundle
from dnexport.deploy.remeasure import judging_images
from dnexport.deploy.validate import Validated
from dnexport.measure.environment import environment
from dnexport.spec.budget import Judgement
from dnexport.spec.latency import Benchmark
from dnexport.spec.manifest import Golden
from dnexport.spec.metrics import Environment, TargetReport
from dnexport.spec.recipe import Bench
from dnexport.spec.report import BundleReport, bundle_report, report_from_file


def reports_from_path(path: Path) -> tuple[BundleReport, ...]:
    """A directory is a bundle, a file a report with one or several.

    Raises:
        BadInput: neither is there, or a report of another schema version.
        IntegrityError: the bundle is not what its manifest says.
    """
    if path.is_file() and path.suffix == ".json":
        return report_from_file(path).bundles
    bundle = Bundle.open(path)
    return (bundle_report(bundle.manifest, bundle.digest, bundle.reports, str(path)),)


def report_of_benchmarks(
    bundle: Bundle, path: str, found: Mapping[str, Benchmark], bench: Bench, judged: Sequence[Judgement], command: str
) -> BundleReport:
    """A bundle with the latency that was just measured here, of the targets that were measured.

    Args:
        bundle: verified.
        path: as the user named it.
        found: by target.
        bench: how it was measured.
        judged: budgets on it.
        command: that measured.
    """
    here = environment()
    note = "its accuracy was measured where the bundle was built, on another machine"
    targets = {}
    for name, benchmark in found.items():
        earlier = bundle.reports[name]
        elsewhere = earlier.accuracy is not None and here.hardware != bundle.manifest.environment.hardware
        notes = (*earlier.notes, *((note,) if elsewhere else ()))
        targets[name] = earlier.model_copy(update={"benchmark": benchmark, "notes": notes})
    return _again(bundle, path, targets, here, judged, command).model_copy(update={"bench": bench})


def report_of_accuracy(
    bundle: Bundle, path: str, found: Mapping[str, Validated], golden: Golden, judged: Sequence[Judgement], command: str
) -> BundleReport:
    """A bundle with the accuracy that was just measured here, of the targets that were measured.

    The bundle's latency stands beside it where it was measured on a machine like this one.

    Args:
        bundle: verified.
        path: as the user named it.
        found: by target.
        golden: the images.
        judged: budgets on it.
        command: that measured.
    """
    here = environment()
    same = here.hardware == bundle.manifest.environment.hardware
    targets = {
        name: bundle.reports[name].model_copy(
            update={
                "status": "validated",
                "accuracy": each.accuracy,
                "cross_check": each.cross_check,
                "executed_precision": each.executed.execution,
                "benchmark": bundle.reports[name].benchmark if same else None,
            }
        )
        for name, each in found.items()
    }
    made = _again(bundle, path, targets, here, judged, command)
    accuracy = next(iter(found.values())).accuracy
    reference = made.reference.model_copy(update={"top1": accuracy.reference_top1, "samples": accuracy.samples})
    return made.model_copy(update={"golden": golden, "reference": reference})


def tested_images(bundle: Bundle, data: str | None) -> Golden:
    """What ``validate_bundle`` compares on: the test part of ``data``, or the golden samples."""
    golden = bundle.manifest.golden
    if data is not None:
        test = judging_images(bundle, data)
        return golden.model_copy(update={"source": test.name, "test_digest": test.digest()})
    if golden.samples == bundle.manifest.reference.samples:  # all test images travel
        return golden
    digest = bundle.manifest.files[GOLDEN]
    return golden.model_copy(update={"source": f"{golden.source}, those in the bundle", "test_digest": digest})


def _again(
    bundle: Bundle,
    path: str,
    targets: Mapping[str, TargetReport],
    here: Environment,
    judged: Sequence[Judgement],
    command: str,
) -> BundleReport:
    whole = {
        name: report.model_copy(update={"judgements": tuple(each for each in judged if each.target == name)})
        for name, report in targets.items()
    }
    made = bundle_report(bundle.manifest, bundle.digest, whole, path)
    return made.model_copy(update={"environment": here, "measured_by": command})
