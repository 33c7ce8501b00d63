"""What long work tells whoever watches: the terminal, a log, or nobody."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """A listener. Work below the command line never prints; it calls this."""

    def start(self, stage: str) -> None:
        """A stage begins."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` steps of the current stage are finished; ``note`` says how it goes."""

    def row(self, cells: Mapping[str, str]) -> None:
        """A row of the current stage's table; all rows have the same columns."""

    def finish(self, seconds: float, *, reused: bool) -> None:
        """The current stage ended after ``seconds``, or its result was reused."""

    def warn(self, message: str) -> None:
        """Something the user must see."""


class Silent:
    """A listener that hears nothing."""

    def start(self, stage: str) -> None:
        """Ignore."""

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Ignore."""

    def row(self, cells: Mapping[str, str]) -> None:
        """Ignore."""

    def finish(self, seconds: float, *, reused: bool) -> None:
        """Ignore."""

    def warn(self, message: str) -> None:
        """Ignore."""


class Recording:
    """Passes everything on and keeps the warnings, which belong into the bundle."""

    def __init__(self, listener: Progress) -> None:
        self._listener = listener
        self.warnings: list[str] = []

    def start(self, stage: str) -> None:
        """Pass on."""
        self._listener.start(stage)

    def advance(self, done: int, total: int, note: str = "") -> None:
        """Pass on."""
        self._listener.advance(done, total, note)

    def row(self, cells: Mapping[str, str]) -> None:
        """Pass on."""
        self._listener.row(cells)

    def finish(self, seconds: float, *, reused: bool) -> None:
        """Pass on."""
        self._listener.finish(seconds, reused=reused)

    def warn(self, message: str) -> None:
        """Keep, and pass on."""
        self.warnings.append(message)
        self._listener.warn(message)
