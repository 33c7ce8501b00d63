"""Where a machine keeps what can be made again: compiled engines, timed kernels, engines that were tried."""

import os
from pathlib import Path


def cache_folder(kind: str) -> Path:
    """A folder below the user's cache (``XDG_CACHE_HOME``, else ``~/.cache``); not made yet."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dnexport" / kind
