"""Open a bundle: nothing in it is trusted until its digest is checked."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from pydantic import ValidationError

from dnexport.bundle.pack import ARCHIVE_SUFFIXES, MANIFEST
from dnexport.bundle.session import BundleSession
from dnexport.data.images import PixelBatch
from dnexport.errors import BadInput, IntegrityError, UsageError
from dnexport.runtimes.arrays import Logits
from dnexport.spec.budget import Judgement
from dnexport.spec.manifest import SCHEMA, Manifest
from dnexport.spec.metrics import TargetReport
from dnexport.spec.quantization import CalibrationTable
from dnexport.spec.record import digest_from_file, nearest
from dnexport.spec.target import Target

GOLDEN = "golden.npz"
TAPS = "taps.npz"
TABLE = "calibration.json"


@dataclass(frozen=True)
class GoldenSamples:
    """The samples that travel with a bundle.

    Attributes:
        images: uint8 NHWC, before normalisation.
        logits: PyTorch's.
        labels: int64, −1 where unknown.
    """

    images: PixelBatch
    logits: Logits
    labels: np.ndarray


@dataclass(frozen=True)
class Bundle:
    """A verified bundle.

    Attributes:
        path: its directory.
        manifest: the content of ``bundle.json``.
        reports: one a target, by string form.
        digest: SHA-256 of ``bundle.json``, which holds those of all other files: it stands for the whole bundle.
    """

    path: Path
    manifest: Manifest
    reports: dict[str, TargetReport]
    digest: str = ""

    @classmethod
    def open(cls, path: Path | str, expect_digest: str | None = None) -> "Bundle":
        """Read the manifest and check every file against it.

        Args:
            path: of the directory.
            expect_digest: the bundle's digest, had by another way than the bundle; a digest in the bundle itself shows
                damage, not who made it.

        Raises:
            UsageError: an expected digest that is none.
            BadInput: no bundle is there.
            IntegrityError: another digest than expected, a manifest that is not understood, or a file that is missing,
                added, changed or outside.
        """
        path = Path(path)
        expected = None if expect_digest is None else _digest_from_text(expect_digest)
        content = _manifest_bytes(path)
        digest = hashlib.sha256(content).hexdigest()
        if expected is not None and expected != digest:
            raise IntegrityError(
                f"bundle {path} has the digest {digest}, not {expected}",
                "get the bundle again from who made it; 'dnexport compile' gives it a new digest, which it prints",
            )
        manifest = _manifest(path, content)
        _check_files(path, manifest)
        reports = {target: _report(path, manifest, slug) for target, slug in manifest.targets.items()}
        return cls(path, manifest, reports, digest)

    @property
    def judgements(self) -> list[Judgement]:
        """Of the budgets, on all targets."""
        return [each for report in self.reports.values() for each in report.judgements]

    def target(self, name: str) -> str:
        """The string form of one of its targets.

        Raises:
            UsageError: it has no such target.
        """
        text = str(Target.parse(name))
        if text not in self.reports:
            raise UsageError(f"bundle {self.path} has no target '{name}'", nearest(text, list(self.reports)))
        return text

    def engine(self, target: str) -> Path | None:
        """The engine file of a target, None where none was built."""
        file = self.reports[target].file
        return self.path / file if file else None

    def session(self, target: str | None = None, *, threads: int | None = None, streams: int = 1) -> BundleSession:
        """Load an engine in this process, after a child process has shown that it loads.

        Args:
            target: one of its targets; None for the first that runs here.
            threads: of a CPU runtime; all where it is None.
            streams: queries that OpenVINO works on at a time, for callers with several threads.

        Raises:
            UsageError: the bundle has no engine for that name.
            TargetUnavailable: it, or every one, cannot run here.
            BuildFailed: the runtime refuses the engine.
            WorkerCrashed: it crashes or hangs in the child.
        """
        return BundleSession(self, target, threads=threads, streams=streams)

    def taps(self) -> dict[str, np.ndarray]:
        """By name of a value inside of the network, what the build recorded of it: float32 [images, values]."""
        if TAPS not in self.manifest.files:
            return {}
        with np.load(self.path / TAPS, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def calibration_table(self) -> CalibrationTable | None:
        """What calibrated the bundle; None where nothing did."""
        if TABLE not in self.manifest.files:
            return None
        try:
            return CalibrationTable.model_validate_json((self.path / TABLE).read_bytes())
        except (OSError, ValidationError) as exc:
            raise IntegrityError(f"{TABLE} of bundle {self.path} is no calibration table", "build it again") from exc

    def golden(self) -> GoldenSamples:
        """The golden samples."""
        try:
            with np.load(self.path / GOLDEN, allow_pickle=False) as arrays:
                return GoldenSamples(arrays["images"], arrays["logits"], arrays["labels"])
        except (OSError, ValueError, KeyError) as exc:
            raise IntegrityError(f"{GOLDEN} of bundle {self.path} holds no golden samples", "build it again") from exc


def _digest_from_text(text: str) -> str:
    digest = text.strip().lower().removeprefix("sha256:")
    if re.fullmatch("[0-9a-f]{64}", digest) is None:
        what = f"a bundle's digest has 64 hexadecimal digits, and '{text}' is none"
        raise UsageError(what, "'dnexport build' prints it as 'digest'")
    return digest


def _manifest_bytes(path: Path) -> bytes:
    if path.is_file():
        packed = path.name.endswith(ARCHIVE_SUFFIXES)
        unpacking = f"unpack it: dnexport package {path} --format folder -o DIR"
        raise BadInput(f"{path} is a file, not a bundle", unpacking if packed else "give a bundle's directory")
    file = path / MANIFEST
    if not file.is_file():
        raise BadInput(f"{path} is not a bundle: it has no {MANIFEST}", "give a directory that 'dnexport build' made")
    return file.read_bytes()


def _manifest(path: Path, content: bytes) -> Manifest:
    file = path / MANIFEST
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as exc:
        first = exc.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise IntegrityError(
            f"{file} is not a manifest of schema {SCHEMA}: {where}: {first['msg'].lower()}",
            "build the bundle again, or update dnexport",
        ) from exc


def _report(path: Path, manifest: Manifest, slug: str) -> TargetReport:
    """A target's report; it and the engine it names are among the verified files."""
    name = f"targets/{slug}/report.json"
    remedy = "copy the bundle again or build it again"
    if name not in manifest.files:
        raise IntegrityError(f"bundle {path} lists a target whose {name} is not among its files", remedy)
    try:
        report = TargetReport.model_validate_json((path / name).read_bytes())
    except ValidationError as exc:
        raise IntegrityError(f"file {name} of bundle {path} is no report of schema {SCHEMA}", remedy) from exc
    if report.file is not None and report.file not in manifest.files:
        raise IntegrityError(f"bundle {path} names an engine that is not among its files: {report.file}", remedy)
    return report


def _check_files(path: Path, manifest: Manifest) -> None:
    remedy = "copy the bundle again or build it again"
    if manifest.schema_version != SCHEMA:
        raise IntegrityError(
            f"bundle {path} has schema {manifest.schema_version}, this version reads {SCHEMA}", "update dnexport"
        )
    for name, digest in manifest.files.items():
        pure = PurePosixPath(name)
        file = path / pure
        if pure.is_absolute() or ".." in pure.parts:
            raise IntegrityError(f"bundle {path} names a file outside of it: {name}", remedy)
        if file.is_symlink() or not file.is_file():
            raise IntegrityError(f"bundle {path} lacks the file {name}", remedy)
        if digest_from_file(file) != digest:
            raise IntegrityError(f"file {name} of bundle {path} is not what the manifest says", remedy)
    present = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir() or p.is_symlink()}
    if added := sorted(present - manifest.files.keys() - {MANIFEST}):
        raise IntegrityError(f"bundle {path} holds a file that its manifest does not name: {added[0]}", "remove it")
