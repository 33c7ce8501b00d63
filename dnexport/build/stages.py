"""Stages with a memory: a stage whose resolved inputs are those of an earlier run is not run again.

A stage's identity is the digest of its inputs (weights, images, graph, versions, the stage's own code version), never
of its output. Results live in ``<output folder>/.stages/<name>-<digest>/``, each written beside and renamed, so that an
interrupted stage leaves nothing. Deleting that folder is always safe.
"""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dnexport.bundle.lock import locked
from dnexport.bundle.pack import check_outside_bundles
from dnexport.errors import error_from_os_error
from dnexport.measure.environment import package_versions
from dnexport.runtimes.scratch import held, remove_abandoned
from dnexport.spec.manifest import StageRun
from dnexport.spec.progress import Progress
from dnexport.spec.record import digest_from_file, digest_from_json

_INPUTS = "stage.json"


class Stages:
    """Runs stages and remembers them.

    Args:
        root: where results live.
        progress: told of each stage.

    Attributes:
        runs: what each stage took, by name.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self._root = root
        self._progress = progress
        self._versions = package_versions()
        check_outside_bundles(root)
        remove_abandoned(root.glob(".*.partial"))
        self.runs: dict[str, StageRun] = {}

    def run(self, name: str, version: int, inputs: dict[str, Any], make: Callable[[Path], None]) -> Path:
        """The folder with a stage's result, made by ``make`` or found.

        Args:
            name: of the stage.
            version: of the stage's code; raised when its result changes.
            inputs: JSON values that determine the result.
            make: fills an empty folder.

        Raises:
            StorageError: the result cannot be written.
        """
        identity = {"stage": name, "version": version, "packages": self._versions, **inputs}
        digest = digest_from_json(identity)
        folder = self._root / f"{name.replace(':', '-').replace('+', '-')}-{digest[:24]}"
        self._progress.start(name)
        began = time.monotonic()
        reused = _whole(folder) or self._found_or_made(folder, identity, make)
        seconds = round(time.monotonic() - began, 3)
        earlier = self.runs.get(name, StageRun(seconds=0, reused=True))  # a stage may be run on several graphs
        self.runs[name] = StageRun(seconds=earlier.seconds + seconds, reused=earlier.reused and reused)
        self._progress.finish(seconds, reused=reused)
        return folder

    def measure(self, name: str, work: Callable[[], Any]) -> Any:
        """A stage that is never reused."""
        self._progress.start(name)
        began = time.monotonic()
        result = work()
        self.runs[name] = StageRun(seconds=round(time.monotonic() - began, 3), reused=False)
        self._progress.finish(self.runs[name].seconds, reused=False)
        return result

    def _found_or_made(self, folder: Path, identity: dict[str, Any], make: Callable[[Path], None]) -> bool:
        """Make a result, unless another process that is just making it has done so; whether it was found."""
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            with locked(self._root / f".{folder.name}.lock"):
                found = _whole(folder)
                if not found:
                    self._make(folder, identity, make)
                return found
        except OSError as exc:
            raise error_from_os_error(exc, folder) from exc

    def _make(self, folder: Path, identity: dict[str, Any], make: Callable[[Path], None]) -> None:
        partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        with held(partial):
            make(partial)
            done = {"inputs": identity, "files": {path.name: digest_from_file(path) for path in partial.iterdir()}}
            (partial / _INPUTS).write_text(json.dumps(done, indent=1), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)


def _whole(folder: Path) -> bool:
    """Whether a result is there as it was written; a damaged one is made again."""
    try:
        files = json.loads((folder / _INPUTS).read_bytes())["files"]
        return all(digest_from_file(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError):
        return False


def stage_key(folder: Path) -> str:
    """A stage's identity as an input of later stages."""
    return folder.name
