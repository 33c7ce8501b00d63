"""Temporary folders that carry the number of their process, so that what a killed process leaves can be told.

Such a folder is named ``….<process>.partial``.
"""

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """An empty folder among the system's temporary ones; those of dead processes go."""
    base = Path(tempfile.gettempdir())
    for left in base.glob(".dnexport.*.partial"):
        if owner_of(left) != os.getpid() and is_abandoned(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=".dnexport.", suffix=f".{os.getpid()}.partial", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
    """Whether the process in a folder's name has ended; a folder of our own number is an earlier process's."""
    owner = owner_of(folder)
    return owner is not None and (owner == os.getpid() or not _alive(owner))


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
