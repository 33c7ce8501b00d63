"""Run a command and watch the memory of all its processes."""

import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Watched:
    """A command that has ended.

    Attributes:
        code: its exit status; None where it was ended for its memory.
        output: of stdout.
        errors: of stderr.
        seconds: it took.
        peak_bytes: of the whole process tree, sampled ten times a second (proportional set size, so that shared
            libraries count once).
    """

    code: int | None
    output: str
    errors: str
    seconds: float
    peak_bytes: int


def watched(command: Sequence[str], folder: Path, *, limit_bytes: int | None = None, limit_s: float = 3600) -> Watched:
    """Run ``command`` in ``folder``; end it where its memory exceeds ``limit_bytes``, or after ``limit_s`` seconds."""
    began = time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peak, over = 0, False
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak, over
        while not ended.wait(0.1):
            members = tree(process.pid)
            peak = max(peak, sum(map(proportional_bytes, members)))
            if limit_bytes is not None and peak > limit_bytes:
                over = True
                process.kill()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        output, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
    ended.set()
    watcher.join()
    return Watched(None if over else process.returncode, output, errors, time.monotonic() - began, peak)


def tree(root: int) -> list[int]:
    """A process and all below it."""
    found = [root]
    for process in found:
        try:
            for task in Path(f"/proc/{process}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
    return found


def proportional_bytes(process: int) -> int:
    """Its proportional set size; 0 where it is gone."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)
