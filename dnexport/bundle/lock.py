"""One process at a time: a file that is locked while it is there, and removed by who holds it.

The system lets go of the lock of a process that dies, so a lock file left behind holds nobody up.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where two builds for one directory are not told apart
    fcntl = None  # type: ignore[assignment]


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for ``path``, hold it, and remove it.

    Raises:
        OSError: the file cannot be made.
    """
    if fcntl is None:
        yield
        return
    held = _acquired(path)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        os.close(held)


def _acquired(path: Path) -> int:
    while True:
        file = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        os.close(file)  # its last holder has removed it meanwhile
