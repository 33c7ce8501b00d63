"""The ``dnexport`` program. Importing it imports no SDK; each command imports what it needs when it runs."""

import contextlib
import io
import json
import os
import signal
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
    package,
    predict,
    report,
    train,
    validate,
)
from dnexport.cli.compile import compile_command

SCHEMA = 1

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
app.command("package")(package.package)
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
    """Run a command and end with its exit code; ``dnexport.cli.__main__`` is what a user starts."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names may hold what the terminal cannot show
    code = _exit_code()
    _end_sooner_on_interrupt(code)
    sys.exit(code)


def _end_sooner_on_interrupt(code: int) -> None:
    """The command has said how it ended, and Ctrl-C changes nothing of that; threads may keep the program a while."""
    # An interrupt inside of exec(), with which dataclasses are made, marks CPython to die of SIGINT when it ends,
    # whatever the exit code; the next exec() takes the mark away.
    exec("")
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, lambda *_: os._exit(code))


def _exit_code() -> int:
    """Run the command. Typer's own refusals, of unknown options and missing arguments, are documents too."""
    try:
        return int(app(standalone_mode=False) or 0)
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as exc:
        # They share no public base class across the versions of Typer, but what click gave them.
        words, code = getattr(exc, "format_message", None), getattr(exc, "exit_code", None)
        if words is None or code is None:
            raise
        from typer import rich_utils

        rich_utils.rich_format_error(exc)  # type: ignore[arg-type]
        if "--json" in sys.argv and words():
            error = {"class": "UsageError", "message": words().rstrip("."), "remedy": "see 'dnexport --help'"}
            typer.echo(json.dumps({"schema": SCHEMA, "status": "failed", "error": error}))
        return int(code)
