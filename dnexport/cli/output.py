"""Where ``--output`` of the commands that measure again goes."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from dnexport.bundle.pack import check_outside_bundles
from dnexport.report.document import check_output, write_report
from dnexport.spec.report import BundleReport, report_from_bundles


def check_report(output: Path | None) -> None:
    """Refuse an output before anything is measured.

    Raises:
        UsageError, TargetUnavailable: as `check_output`, or it lies in a bundle.
    """
    if output is not None:
        check_outside_bundles(output)
        check_output(output)


def again(
    command: str,
    bundle: Path,
    flags: Sequence[str],
    target: str | None,
    require: Sequence[str] | None,
    output: Path | None,
) -> str:
    """The command line that measures the same again."""
    named = ["--target", target] if target else []
    required = [word for text in require or () for word in ("--require", text)]
    written = ["--output", str(output)] if output else []
    return shlex.join(["dnexport", command, str(bundle), *flags, *named, *required, *written])


def write_measured(measured: BundleReport, output: Path) -> None:
    """Write the report of one bundle, measured here."""
    write_report(report_from_bundles([measured], measured.measured_by or ""), output)
