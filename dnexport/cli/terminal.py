"""What the user sees: progress and words on stderr, results on stdout, errors as one sentence with an exit code."""

import contextlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from dnexport.errors import (
    INTERRUPTED_EXIT_CODE,
    BuildFailed,
    DnexportError,
    TargetUnavailable,
    error_from_os_error,
)

BROKEN_PIPE_EXIT_CODE = 141
_ROW_CELL = 13
_EXTRAS = {"cpu": ("onnxruntime", "openvino", "polygraphy"), "train": ("lightning_fabric", "sklearn")}


class Terminal:
    """The listener of long work, and the place for results.

    Args:
        as_json: print one document on stdout and nothing else there.
        quiet: no progress.
        mute: neither progress nor results; errors only.
        nothing: the document of a command that failed, but for its error.
    """

    def __init__(self, *, as_json: bool, quiet: bool, mute: bool, nothing: dict[str, Any]) -> None:
        self.as_json = as_json
        self.nothing = nothing
        self._quiet = quiet or mute
        self._mute = mute
        self._out = _console(stderr=False)
        self._err = _console(stderr=True)
        self._live: Progress | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._columns: tuple[str, ...] = ()

    def start(self, stage: str) -> None:
        """Show a stage: a live line on a terminal, nothing yet in a pipe."""
        self.stop()
        self._stage, self._columns = stage, ()
        if self._quiet or not self._err.is_terminal:
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(24),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._live = Progress(*columns, console=self._err, transient=True)
        self._task = self._live.add_task(stage, total=None, note="")
        self._live.start()

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Move the live line."""
        if self._live is not None and self._task is not None:
            self._live.update(self._task, completed=done, total=total)
            if note:
                self._live.update(self._task, note=note)

    def row(self, cells: Mapping[str, str]) -> None:
        """A line of the stage's table, under a heading the first time."""
        if self._quiet:
            return
        if tuple(cells) != self._columns:
            self._columns = tuple(cells)
            self._err.print("  " + "  ".join(f"{name:>{_ROW_CELL}}" for name in cells), style="bold")
        self._err.print("  " + "  ".join(f"{cell:>{_ROW_CELL}}" for cell in cells.values()))

    def finish(self, seconds: float, *, reused: bool) -> None:
        """One plain line for the finished stage."""
        self.stop()
        if not self._quiet:
            self._err.print(f"  {self._stage:<44} {'reused' if reused else f'{seconds:.1f} s':>8}", style="dim")

    def warn(self, message: str) -> None:
        """Always shown."""
        self._err.print("warning:", style="bold yellow", end=" ")
        self._err.print(message, soft_wrap=True)

    def stop(self) -> None:
        """Take the live line away."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def say(self, text: str) -> None:
        """A line of the result; on stderr where stdout is a document's."""
        if not self._mute:
            (self._err if self.as_json else self._out).print(text, soft_wrap=True)

    def table(self, columns: list[str], rows: list[list[str]]) -> None:
        """A table of the result."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for index, column in enumerate(columns):
            table.add_column(column, overflow="fold", no_wrap=index == 0)
        for row in rows:
            table.add_row(*row)
        (self._err if self.as_json else self._out).print(table)

    def document(self, value: Any) -> None:
        """The JSON document, where one was asked for."""
        if self.as_json and not self._mute:
            try:
                sys.stdout.write(json.dumps(value, indent=1, allow_nan=False) + "\n")
                sys.stdout.flush()  # what becomes of it is known while there is still somebody to tell
            except OSError:
                _close_stdout()
                raise

    def error(self, error: DnexportError) -> None:
        """One sentence on stderr, and the document of a failure."""
        self.stop()
        self._err.print("error:", style="bold red", end=" ")
        self._err.print(str(error), soft_wrap=True)
        self.document({**self.nothing, "error": error.document()})


def _console(*, stderr: bool) -> Console:
    # A pipe has no width; a table folded at 80 columns would be hard to read and to grep.
    width = None if (sys.stderr if stderr else sys.stdout).isatty() else 200
    return Console(stderr=stderr, highlight=False, markup=False, width=width)


@contextlib.contextmanager
def terminal(
    *,
    as_json: bool = False,
    quiet: bool = False,
    mute: bool = False,
    debug: bool = False,
    nothing: dict[str, Any] | None = None,
) -> Iterator[Terminal]:
    """Run a command: errors of ours become a sentence and an exit code, Ctrl-C becomes 130."""
    view = Terminal(as_json=as_json, quiet=quiet, mute=mute, nothing=nothing or {"schema": 1, "status": "failed"})
    interrupts: list[int] = []

    def interrupt(number: int, _: object) -> None:
        interrupts.append(number)
        raise KeyboardInterrupt

    _handle_interrupts(interrupt)
    try:
        yield view
    except typer.Exit:
        raise
    except BrokenPipeError:
        # Whoever read our output has gone, as 'head' does; nothing is left to say.
        _close_stdout()
        raise typer.Exit(BROKEN_PIPE_EXIT_CODE) from None
    except (Exception, KeyboardInterrupt) as exc:
        _handle_interrupts(_too_late)  # a second one would cut off the answer to the first
        # A library may turn the interrupt into an exception of its own; the user's Ctrl-C goes before it.
        if interrupts or isinstance(exc, KeyboardInterrupt):
            view.stop()
            sys.stderr.write("interrupted; nothing was replaced\n")
            view.document({**view.nothing, "error": {"class": "Interrupted", "message": "interrupted", "remedy": ""}})
            raise typer.Exit(INTERRUPTED_EXIT_CODE) from None
        if debug:
            sys.stderr.write(traceback.format_exc())
        error = _error_from_exception(exc)
        view.error(error)
        raise typer.Exit(error.exit_code) from None
    finally:
        _handle_interrupts(_too_late)
        view.stop()


def _handle_interrupts(handler: Callable[[int, object], None]) -> None:
    """Unless Ctrl-C is ignored, as a shell wants it of what it puts in the background."""
    if callable(signal.getsignal(signal.SIGINT)):
        signal.signal(signal.SIGINT, handler)


def _too_late(number: int, _: object) -> None:
    """The command has already reported its outcome."""


def _close_stdout() -> None:
    """What is still to be written there goes nowhere, rather than failing again when the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _error_from_exception(exc: Exception) -> DnexportError:
    """Ours as it is; what the file system says; an extra that is missing; anything else is a defect, and said to be."""
    if isinstance(exc, DnexportError):
        return exc
    if isinstance(exc, ModuleNotFoundError):
        return _missing_package(exc)
    if isinstance(exc, OSError):
        return error_from_os_error(exc, Path(str(exc.filename or "the output")))
    if isinstance(exc, MemoryError):
        return BuildFailed("memory ran out", "give smaller images or a smaller batch")
    first_line = (str(exc).strip().splitlines() or ["no message"])[0]
    return DnexportError(f"unexpected {type(exc).__name__}: {first_line}", "run it with --debug and report this defect")


def _missing_package(exc: ModuleNotFoundError) -> DnexportError:
    """The device's install lacks what only the host needs; the extra that brings it."""
    package = (exc.name or "?").partition(".")[0]
    extra = next((extra for extra, packages in _EXTRAS.items() if package in packages), "host")
    return TargetUnavailable(
        f"this command needs the package '{package}', which is not installed", f"pip install 'dnexport[{extra}]'"
    )
