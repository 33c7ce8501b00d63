"""Pack a bundle for its way: one archive, a folder again at the other end, or a model repository of Triton.

What is packed is verified before, what is unpacked after; untrained weights go nowhere.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from dnexport.bundle.archive import unpack_archive, write_archive
from dnexport.bundle.pack import staging
from dnexport.bundle.triton import BACKENDS, CONFIG, MARK, Served, write_model
from dnexport.bundle.verify import Bundle
from dnexport.errors import BadInput, DnexportError, StorageError, TargetUnavailable, UsageError, error_from_os_error
from dnexport.runtimes.scratch import scratch
from dnexport.spec.precision import Precision
from dnexport.spec.record import Record, digest_from_file, digest_from_json
from dnexport.spec.target import Target

Form = Literal["tar", "folder", "triton"]


class Package(Record):
    """What was written.

    Attributes:
        format: ``tar``, ``folder`` or ``triton``.
        bundle: its name.
        bundle_digest: SHA-256 of its ``bundle.json``.
        target: that Triton serves; None for the other formats.
        output: where it lies, absolute.
        files: how many, those of the bundle or of the repository.
        bytes: of the archive, or of all files.
        digest: SHA-256 of the archive; of a folder, of the JSON object of its files' SHA-256 by path.
        warnings: what a reader should know.
    """

    format: Form
    bundle: str
    bundle_digest: str
    target: str | None
    output: str
    files: int
    bytes: int
    digest: str
    warnings: tuple[str, ...]


def package_bundle(source: Path, form: Form, output: Path, target: str | None, expect_digest: str | None) -> Package:
    """Write ``output`` whole or not at all.

    Args:
        source: a bundle, or an archive of one.
        form: of the output.
        output: an archive's file, a bundle's directory, or a model repository's.
        target: that Triton serves; None takes the first that it can.
        expect_digest: of the bundle.

    Raises:
        UsageError: the output is something else already, or contradictory arguments.
        BadInput: the source is neither, or its weights are untrained.
        IntegrityError: the source is damaged, hostile, or of another digest.
        TargetUnavailable: Triton cannot serve the target, or none.
        StorageError: the file system refuses.
    """
    if target is not None and form != "triton":
        raise UsageError(f"format {form} holds all targets, and --target {target} names one", "drop --target")
    output = output if output.name not in ("", "..") else output.resolve()
    _check_apart(source, output)
    if form == "folder":
        return _unpacked(source, output, expect_digest)
    with _opened(source, expect_digest) as bundle:
        _check_trained(bundle)
        if form == "triton":
            return _served(bundle, output, target)
        write_archive(bundle, output)
        sizes = output.stat().st_size, digest_from_file(output)
        return _package(form, bundle, output, len(bundle.manifest.files) + 1, *sizes)


def served_target(bundle: Bundle, wanted: str | None) -> str:
    """The target that Triton will serve: the wanted one, else the first that it can, stand-ins last.

    Raises:
        UsageError: the bundle has no such target.
        TargetUnavailable: Triton cannot serve it, or it has no engine; or so for all.
    """
    if wanted is not None:
        name = bundle.target(wanted)
        if found := _obstacle(bundle, name):
            raise TargetUnavailable(f"Triton cannot serve target {name} of bundle {bundle.path}: {found[0]}", found[1])
        return name
    names = sorted(bundle.reports, key=lambda name: bundle.reports[name].companion)
    obstacles = {name: _obstacle(bundle, name) for name in names}
    if servable := [name for name, found in obstacles.items() if found is None]:
        return servable[0]
    told = [(name, *each) for name, each in obstacles.items() if each is not None]
    reasons = "; ".join(f"{name}: {why}" for name, why, _ in told)
    raise TargetUnavailable(f"Triton can serve no target of bundle {bundle.path} ({reasons})", told[0][2])


def serving_warnings(served: Served) -> tuple[str, ...]:
    """How Triton differs from the bundle's own session, or may."""
    bundle, target = served.bundle, served.target
    report, precision = bundle.reports[target], bundle.manifest.recipe.precision
    warnings = []
    if report.companion:
        warnings.append(f"{target} is a stand-in that validated the graph where the bundle was built")
    if target == "openvino:cpu" and (report.executed_precision is None or report.executed_precision.floats != "bf16"):
        warnings.append(
            "Triton's openvino backend cannot be held to float32: where a processor has bfloat16, it decides"
        )
    if target == "onnxruntime:cuda" and precision is Precision.FP32:
        warnings.append("Triton's onnxruntime backend leaves TF32 on: start tritonserver with NVIDIA_TF32_OVERRIDE=0")
    if target == "tensorrt":
        version = report.built_with.get("tensorrt", "of a version that is not known")
        warnings.append(f"the plan was built by TensorRT {version}: choose a Triton that has the same")
    if not served.batched:
        low, high = served.sizes
        images = f"{low}" if low == high else f"{low} to {high}"
        since = "it needs 24.03 or later, and " if target == "openvino:cpu" else ""
        warnings.append(f"Triton does not put queries of {target} together: {since}each brings {images} images")
    return tuple(warnings)


def check_repository(name: str, output: Path) -> None:
    """Refuse to replace what is not a model repository that holds this model of ours and nothing else.

    Raises:
        UsageError: a file, or a folder that holds something else.
    """
    if not output.exists() and not output.is_symlink():
        return
    if output.is_symlink() or not output.is_dir():
        raise UsageError(f"output {output} exists and is no model repository", "choose another --output")
    config = output / name / CONFIG
    present = sorted(path.name for path in output.iterdir())
    ours = present == [name] and config.is_file() and config.read_bytes().startswith(MARK.encode())
    if present and not ours:
        other = next((each for each in present if each != name), name)
        raise UsageError(
            f"output {output} holds {other!a}, which is not this bundle's model",
            "choose another --output; tritonserver takes --model-repository several times",
        )


def _unpacked(archive: Path, output: Path, expect_digest: str | None) -> Package:
    if archive.is_dir():
        raise UsageError(f"{archive} is a folder, and --format folder unpacks an archive", "copy it as it is")
    _check_file(archive)
    with staging(output) as folder:
        unpack_archive(archive, folder)
        with _named(folder, archive):
            Bundle.open(folder, expect_digest)
    bundle = Bundle.open(output)
    return _package("folder", bundle, output, *_tree(output))


def _served(bundle: Bundle, output: Path, target: str | None) -> Package:
    served = Served(bundle, served_target(bundle, target))
    with staging(output, lambda place: check_repository(bundle.manifest.recipe.name, place)) as folder:
        write_model(served, folder)
    return _package("triton", bundle, output, *_tree(output), served)


def _package(
    form: Form, bundle: Bundle, output: Path, files: int, size: int, digest: str, served: Served | None = None
) -> Package:
    calibration = bundle.manifest.calibration
    warnings = serving_warnings(served) if served else ()
    if calibration is not None and calibration.synthetic:
        warnings += ("INT8 was calibrated without a real image: its accuracy is not to be relied on",)
    return Package(
        format=form,
        bundle=bundle.manifest.recipe.name,
        bundle_digest=bundle.digest,
        target=served.target if served else None,
        output=str(output.resolve()),
        files=files,
        bytes=size,
        digest=digest,
        warnings=warnings,
    )


def _obstacle(bundle: Bundle, name: str) -> tuple[str, str] | None:
    """Why Triton cannot serve a target, and what to do; None where it can."""
    report = bundle.reports[name]
    if name not in BACKENDS:
        return f"it has no backend for {Target.parse(name).runtime}", "build for tensorrt or onnxruntime:cuda too"
    if name == "onnxruntime:cuda" and bundle.manifest.recipe.precision is Precision.INT8:
        # `runtimes.onnxruntime.float_session` says what becomes of Q/DQ that are not left as they are.
        why = "its onnxruntime backend rewrites Q/DQ around an FP16 body, wrongly and without a message"
        return why, "build the bundle for tensorrt"
    if report.file is None:
        return f"it is {report.status}, not built", f"dnexport compile {bundle.path} --target {name}"
    return None


def _check_apart(source: Path, output: Path) -> None:
    inside, outside = source.resolve(), output.resolve()
    if inside in outside.parents or outside in inside.parents or (inside == outside and inside.is_dir()):
        raise UsageError(f"output {output} and {source} lie one in the other", "choose an --output beside it")


def _check_file(archive: Path) -> None:
    if not archive.is_file():
        what = f"{archive} is {'no file' if archive.exists() else 'not there'}"
        raise BadInput(what, "give a bundle, or an archive that 'dnexport package' made")


def _check_trained(bundle: Bundle) -> None:
    weights = bundle.manifest.weights
    if not weights.trained:
        raise BadInput(
            f"bundle {bundle.path} has untrained weights ({weights.source}), for latency and parity only",
            "build it again with --weights FILE or --weights pretrained",
        )


@contextlib.contextmanager
def _opened(source: Path, expect_digest: str | None) -> Iterator[Bundle]:
    """The verified bundle in a directory or, for the time being, unpacked from an archive."""
    if source.is_dir():
        yield Bundle.open(source, expect_digest)
        return
    _check_file(source)
    with scratch() as folder, _named(folder, source):
        try:
            unpack_archive(source, folder)
        except OSError as exc:
            raise error_from_os_error(exc, folder) from exc
        yield Bundle.open(folder, expect_digest)


@contextlib.contextmanager
def _named(folder: Path, archive: Path) -> Iterator[None]:
    """A bundle's errors speak of the archive, not of the folder that is gone when they are read."""
    try:
        yield
    except StorageError:
        raise  # it is that folder which has no room
    except DnexportError as exc:
        raise type(exc)(*(text.replace(str(folder), str(archive)) for text in (exc.message, exc.remedy))) from exc


def _tree(folder: Path) -> tuple[int, int, str]:
    """Number, bytes and digest of the files in a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    digests = {path.relative_to(folder).as_posix(): digest_from_file(path) for path in files}
    return len(files), sum(path.stat().st_size for path in files), digest_from_json(digests)
