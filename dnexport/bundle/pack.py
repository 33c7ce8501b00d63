"""Write a bundle: build it beside its place, then exchange the two in one step.

A build that is interrupted at any moment leaves the earlier bundle as it was; what it began is a hidden sibling that
the next build of the same bundle removes.
"""

import contextlib
import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from dnexport.bundle.lock import locked
from dnexport.errors import BadInput, UsageError, error_from_os_error
from dnexport.runtimes.scratch import held, owner_of, remove_abandoned, siblings
from dnexport.spec.manifest import Manifest
from dnexport.spec.record import digest_from_file

MANIFEST = "bundle.json"
ARCHIVE_SUFFIXES = (".tar", ".tar.gz")
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def staging(destination: Path, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A temporary sibling that becomes ``destination`` when the block ends without an exception.

    Args:
        destination: a bundle's directory, or one of another kind.
        check: refuses a destination that may not be replaced; `check_replaceable` where it is None.

    Raises:
        UsageError: the destination is something other than a bundle or an empty directory, or another process is
            writing it.
        StorageError: the file system refuses.
    """
    destination = Path(os.path.abspath(destination))  # '.' has no name and no parent of its own
    check_outside_bundles(destination)
    check = check or check_replaceable
    check(destination)
    if os.path.ismount(destination):
        what = f"output {destination} is a mount point, which cannot be replaced as a whole"
        raise UsageError(what, "give a folder inside of it")
    try:
        with contextlib.ExitStack() as stack:
            temporary = _claimed(destination, stack)
            yield temporary
            _sync(temporary)
            check(destination)  # something may have been put there meanwhile
            _put_in_place(temporary, destination)
    except OSError as exc:
        raise error_from_os_error(exc, destination) from exc


def _claimed(destination: Path, stack: contextlib.ExitStack) -> Path:
    """An empty sibling that tells other processes that this one writes ``destination``."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with locked(destination.with_name(f".{destination.name}.lock")):
        remove_abandoned(siblings(destination, "partial"))
        for other in siblings(destination, "partial"):
            raise UsageError(
                f"output {destination} is being written by process {owner_of(other)}",
                "wait for it or choose another --output",
            )
        _restore_retired(destination)
        return stack.enter_context(held(destination.with_name(f".{destination.name}.{os.getpid()}.partial")))


def write_manifest(folder: Path, manifest: Manifest) -> Manifest:
    """Add the digest of every file in ``folder`` to the manifest and write it as ``bundle.json``."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    digests = {path.relative_to(folder).as_posix(): digest_from_file(path) for path in files}
    complete = manifest.model_copy(update={"files": digests})
    (folder / MANIFEST).write_text(complete.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return complete


def check_overwritable(output: Path, read: Callable[[Path], object], what: str) -> None:
    """Refuse to write a file over something else, or into a bundle.

    Args:
        output: to be written.
        read: reads what may be replaced.
        what: that is, in a word.

    Raises:
        UsageError: it lies in a bundle, or a file is there that ``read`` does not take.
    """
    check_outside_bundles(output)
    if not output.exists():
        return
    try:
        read(output)
    except BadInput as exc:
        raise UsageError(f"output {output} exists and is no {what}", "choose another --output") from exc


def check_outside_bundles(output: Path) -> None:
    """Refuse to write a file into a bundle, whose manifest would not know it.

    Raises:
        UsageError: the output lies in one.
    """
    for folder in Path(os.path.abspath(output)).parents:
        if (folder / MANIFEST).is_file():
            raise UsageError(
                f"output {output} lies in bundle {folder}, which would be damaged", "choose another --output"
            )


def check_replaceable(destination: Path) -> None:
    """Refuse to replace what is not a bundle.

    Raises:
        UsageError: a file, or a directory that holds something else.
    """
    if not destination.exists() and not destination.is_symlink():
        return
    if not destination.is_dir() or destination.is_symlink():
        raise UsageError(f"output {destination} exists and is not a bundle", "choose another --output")
    if any(destination.iterdir()) and not (destination / MANIFEST).is_file():
        raise UsageError(f"output {destination} holds files that are no bundle", "choose another --output or empty it")


def _restore_retired(destination: Path) -> None:
    """Bring back a bundle whose replacement was interrupted between two renames."""
    for retired in siblings(destination, "retired"):
        if not destination.exists():
            retired.rename(destination)
        else:
            shutil.rmtree(retired, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Flush files to the disk, so that the rename never becomes durable before their content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _put_in_place(temporary: Path, destination: Path) -> None:
    if not destination.exists():
        temporary.rename(destination)
    elif not _exchange(temporary, destination):
        # Without an atomic exchange there is a moment without a bundle, but never one without its content.
        retired = destination.with_name(f".{destination.name}.{os.getpid()}.retired")
        destination.rename(retired)
        temporary.rename(destination)
        shutil.rmtree(retired, ignore_errors=True)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two directories atomically (Linux, renameat2); False where the system cannot."""
    if sys.platform != "linux":
        return False
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)
