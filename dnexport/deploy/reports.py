"""Reports of bundles, of files that earlier reports left, and of what was just measured here."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dnexport.bundle.pack import MANIFEST
from dnexport.bundle.verify import GOLDEN, Bundle
from dnexport.deploy.remeasure import judging_images
from dnexport.measure.environment import environment
from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.torch_eager import EAGER
from dnexport.spec.budget import Judgement
from dnexport.spec.manifest import Golden
from dnexport.spec.metrics import TargetReport
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
    made = bundle_report(bundle.manifest, bundle.digest, bundle.reports, str(path))
    return (made.model_copy(update={"bytes": _size(bundle)}),)


def measured_report(
    bundle: Bundle, path: str, targets: Mapping[str, TargetReport], judged: Sequence[Judgement], command: str
) -> BundleReport:
    """A bundle with what was just measured here, of the targets that were measured.

    Args:
        bundle: verified.
        path: as the user named it.
        targets: `reports_now`.
        judged: budgets on it.
        command: that measured.
    """
    whole = {
        name: report.model_copy(update={"judgements": tuple(each for each in judged if each.target == name)})
        for name, report in targets.items()
    }
    made = bundle_report(bundle.manifest, bundle.digest, whole, path)
    return made.model_copy(update={"environment": environment(), "measured_by": command, "bytes": _size(bundle)})


def with_images(report: BundleReport, golden: Golden, *, answered_here: bool) -> BundleReport:
    """A report that says on which images its accuracy was measured.

    Args:
        report: with the accuracy.
        golden: `tested_images`.
        answered_here: PyTorch ran again, on this machine.
    """
    accuracy = next(each.accuracy for each in report.targets.values())
    assert accuracy is not None
    update: dict[str, object] = {"top1": accuracy.reference_top1, "samples": accuracy.samples}
    if answered_here:
        update |= {"form": str(EAGER), "threads": available_threads()}
    seen = golden.model_copy(update={"samples": accuracy.samples, "labelled": accuracy.labelled})
    return report.model_copy(update={"golden": seen, "reference": report.reference.model_copy(update=update)})


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


def _size(bundle: Bundle) -> int:
    return sum((bundle.path / name).stat().st_size for name in (MANIFEST, *bundle.manifest.files))
