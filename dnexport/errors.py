"""Every way in which dnexport refuses or fails, and the exit code of each.

::

    DnexportError
    ├── UsageError            2   contradictory or unknown flags
    │   └── RecipeError       2   a recipe that does not say what to build
    ├── BadInput              3   something handed to us is not what it should be
    │   ├── ArchError         3   an architecture that is unknown or impossible
    │   ├── CheckpointError   3   weights that cannot be read or do not fit
    │   ├── DataError         3   images, labels or folders
    │   └── GraphError        3   an ONNX model
    ├── TargetUnavailable     4   this machine cannot build or run that target
    ├── BuildFailed           5   a stage did not produce what it promises
    │   ├── WorkerCrashed     5   a vendor library crashed, hung or ran out of memory
    │   ├── ParityFailed      5   the engine is not the network that was trained
    │   └── StorageError      5   no space, no permission, an input/output error
    ├── BudgetFailed          6   it works, but not within the budget asked for
    ├── Undecided             7   too few samples for a verdict
    └── IntegrityError        8   a bundle is not what its manifest says

Interruption by the user (Ctrl-C) is exit code 130; 1 is a defect of dnexport itself. The message says what, where, got
and expected; the remedy says what to do next. Both together are one sentence.
"""

import errno
from pathlib import Path


class DnexportError(Exception):
    """A failure with a message for people, a remedy, and an exit code for scripts."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message

    def document(self) -> dict[str, str]:
        """For ``--json``."""
        return {"class": type(self).__name__, "message": self.message, "remedy": self.remedy}


class UsageError(DnexportError):
    """Flags that contradict each other or that nothing understands."""

    exit_code = 2


class RecipeError(UsageError):
    """A recipe with an unknown key, a wrong type or a value out of range."""


class BadInput(DnexportError):
    """Something handed to us is not what it should be."""

    exit_code = 3


class ArchError(BadInput):
    """An architecture that is unknown or impossible."""


class CheckpointError(BadInput):
    """Weights that cannot be read, or that do not fit the architecture."""


class DataError(BadInput):
    """A data folder, an image or a label that cannot be used."""


class GraphError(BadInput):
    """An ONNX model that is not what a pass or a runtime needs."""


class TargetUnavailable(DnexportError):
    """This machine cannot build or run the target."""

    exit_code = 4


class BuildFailed(DnexportError):
    """A stage did not produce what it promises."""

    exit_code = 5


class WorkerCrashed(BuildFailed):
    """A child process died, hung, or ran out of memory."""


class ParityFailed(BuildFailed):
    """The built engine does not compute the network it was built from."""


class StorageError(BuildFailed):
    """The file system refused: no space, no permission, an input/output error."""


class BudgetFailed(DnexportError):
    """The result is correct but outside of the budget asked for."""

    exit_code = 6


class Undecided(DnexportError):
    """Too few samples for a verdict."""

    exit_code = 7


class IntegrityError(DnexportError):
    """A bundle is not what its manifest says."""

    exit_code = 8


INTERRUPTED_EXIT_CODE = 130

_STORAGE_REMEDIES = {
    errno.ENOSPC: "free some space or choose another --output",
    errno.EDQUOT: "free some of your quota or choose another --output",
    errno.EFBIG: "raise the file size limit (ulimit -f) or choose another --output",
    errno.EROFS: "choose an --output on a writable file system",
    errno.EACCES: "choose an --output you may write to",
    errno.EPERM: "choose an --output you may write to",
    errno.EIO: "check the disk",
}


def error_from_os_error(exc: OSError, path: Path) -> DnexportError:
    """Name the file and the way out: a refusal to write is a `StorageError`, anything else is `BadInput`."""
    where = exc.filename if exc.filename is not None else path
    reason = (exc.strerror or str(exc)).lower()
    remedy = _STORAGE_REMEDIES.get(exc.errno or 0)
    if remedy is None:
        return BadInput(f"cannot use {where}: {reason}", "check the path")
    return StorageError(f"cannot write {where}: {reason}", remedy)
