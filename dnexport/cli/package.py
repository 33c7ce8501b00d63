"""``dnexport package``"""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dnexport.cli import options as o

if TYPE_CHECKING:
    from dnexport.cli.terminal import Terminal
    from dnexport.deploy.package import Package


class PackageFormat(str, Enum):
    """What is written."""

    TAR = "tar"
    FOLDER = "folder"
    TRITON = "triton"


def package(
    source: Annotated[Path, typer.Argument(help="A bundle, or an archive of one.", show_default=False)],
    form: Annotated[
        PackageFormat,
        typer.Option("--format", help="An archive, the folder it was made of, or Triton's model repository."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="FILE.tar or FILE.tar.gz; for the others a folder.")],
    target: Annotated[
        str | None, typer.Option(help="The target that Triton serves.", show_default="the first that it can")
    ] = None,
    expect_digest: o.ExpectDigest = None,
    as_json: o.Json = False,
    quiet: o.Quiet = False,
    debug: o.Debug = False,
) -> None:
    """Pack a bundle into one file, unpack and verify it, or make a model repository for Triton."""
    from dnexport.cli.terminal import terminal

    with terminal(as_json=as_json, quiet=quiet, debug=debug) as view:
        from dnexport.deploy.package import package_bundle

        _show(view, package_bundle(source, form.value, output, target, expect_digest))


def _show(view: "Terminal", package: "Package") -> None:
    view.document(package.model_dump(mode="json"))
    for warning in package.warnings:
        view.warn(warning)
    served = f", target {package.target}" if package.target else ""
    view.say(f"{package.format:<7} {package.output}  {package.files} files, {package.bytes / 1e6:.1f} MB{served}")
    view.say(f"digest  {package.bundle_digest} (of bundle {package.bundle}: what --expect-digest takes)")
