"""The ``dnexport`` program. Importing it imports no SDK; each command imports what it needs when it runs."""

import io
import sys
from typing import Annotated

import typer

from dnexport import __version__
from dnexport.cli import (
    archs,
    bench,
    build,
    calibrate,
    check,
    doctor,
    export,
    inspect,
    predict,
    report,
    train,
    validate,
)
from dnexport.cli.compile import compile_command

app = typer.Typer(
    name="dnexport",
    help="Export, quantize, prove and measure DenseNets on the machines they will run on.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("build")(build.build)
app.command("report")(report.report)
app.command("predict")(predict.predict)
app.command("train")(train.train)
app.command("export")(export.export)
app.command("calibrate")(calibrate.calibrate)
app.command("compile")(compile_command)
app.command("check")(check.check)
app.command("validate")(validate.validate)
app.command("bench")(bench.bench)
app.command("inspect")(inspect.inspect)
app.command("archs")(archs.archs)
app.command("doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dnexport {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version  # the callback has printed it


def main() -> None:
    """The console script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what the terminal cannot show
    app()
