"""Temporary folders that their process holds, so that what a killed process leaves can be told.

Such a folder is named ``….<process>.partial``, and locked while it is worked in: numbers of processes say nothing to
another container or machine that sees the same folder. They decide where there are no locks.
"""

import contextlib
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder among the system's temporary ones; those of dead processes go."""
    base = Path(tempfile.gettempdir())
    remove_abandoned(left for left in base.glob(".dnexport.*.partial") if owner_of(left) != os.getpid())
    with held(base / f".dnexport.{uuid.uuid4().hex[:12]}.{os.getpid()}.partial", mode=0o700) as folder:
        yield folder


@contextlib.contextmanager
def held(folder: Path, mode: int = 0o777) -> Iterator[Path]:
    """A new folder that no other process takes for abandoned; it goes, unless it was moved away.

    Args:
        folder: to be made.
        mode: its permissions, less what the process masks.

    Raises:
        OSError: it cannot be made, or is there.
    """
    with contextlib.ExitStack() as stack:
        folder.mkdir(mode)
        stack.callback(_let_go, _lock(folder))
        if not folder.exists():  # taken away between the two
            folder.mkdir(mode)
            stack.callback(_let_go, _lock(folder))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def siblings(path: Path, ending: str) -> list[Path]:
    """What processes have begun beside ``path``, for it alone: ``.name.<process>.<ending>``."""
    form = re.compile(rf"\.{re.escape(path.name)}\.\d+\.{ending}")
    return sorted(each for each in path.parent.iterdir() if form.fullmatch(each.name)) if path.parent.is_dir() else []


def remove_abandoned(partials: Iterable[Path]) -> None:
    """Remove the partial folders of processes that are gone."""
    for partial in partials:
        if is_abandoned(partial):
            shutil.rmtree(partial, ignore_errors=True)


def is_abandoned(folder: Path) -> bool:
    """Whether no process works in a folder any more."""
    free = _free(folder)
    if free is not None:
        return free
    owner = owner_of(folder)
    return owner is not None and (owner == os.getpid() or not _alive(owner))


def _lock(folder: Path) -> int | None:
    """Hold a folder until this process ends or lets go; None where the system has no such locks."""
    if fcntl is None:
        return None
    try:
        file = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return None
    with contextlib.suppress(OSError):  # some network file systems
        fcntl.flock(file, fcntl.LOCK_EX)
    return file


def _let_go(lock: int | None) -> None:
    if lock is not None:
        os.close(lock)


def _free(folder: Path) -> bool | None:
    """Whether nobody holds a folder; None where the system does not tell."""
    if fcntl is None:
        return None
    try:
        file = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    finally:
        os.close(file)
    return True


def owner_of(folder: Path) -> int | None:
    """The process in a folder's name."""
    number = folder.name.split(".")[-2]
    return int(number) if number.isdigit() else None


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
