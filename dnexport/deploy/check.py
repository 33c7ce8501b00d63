"""Whether a bundle's engines can be used on this machine: judged before anything native is loaded, then tried.

The verdict rests on the manifest, the installed versions, the GPUs and the memory. Only an engine that may be loaded is
loaded, in a worker, and answers golden samples at the profile's smallest and largest batch.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dnexport.bundle.session import saturates_unjudged
from dnexport.bundle.verify import Bundle
from dnexport.data.images import feed_from_pixels
from dnexport.deploy.compile import build_options
from dnexport.deploy.engine import Engine, engine_from_bundle
from dnexport.deploy.known_bad import package_of, warnings_about
from dnexport.deploy.taps import taps_of_engine
from dnexport.deploy.targets import stand_in_refusal
from dnexport.deploy.validate import INT8_PARITY_FLOOR_DB, parity_floor
from dnexport.errors import DnexportError
from dnexport.measure.accuracy import snr_db
from dnexport.measure.environment import package_versions
from dnexport.runtimes.arrays import whole_batches
from dnexport.runtimes.gpu import gpu_identity
from dnexport.runtimes.registry import runtime_for
from dnexport.spec.check import Checked, SelfTest, Tap
from dnexport.spec.metrics import TargetReport
from dnexport.spec.precision import Precision
from dnexport.spec.progress import Progress
from dnexport.spec.target import Target

_SAMPLES = 8
_VARIES_DB = 6.0
_EXACT_DB = 66.0
_AMPERE = 80
# Orin's GPU, and the JetPacks that bring a TensorRT for it.
_ORIN = "sm87"
_JETPACKS = (("10.3.", "JetPack 6.1 and 6.2"), ("10.16.", "JetPack 7.2"))
# A session holds weights, their packed copies and activations.
_MEMORY_FACTOR = 4


def check_bundle(bundle: Bundle, target: str | None, progress: Progress) -> list[Checked]:
    """Judge and try the targets of a verified bundle.

    Args:
        bundle: verified: every file is what its manifest says.
        target: one of its targets; None for all.
        progress: told of each.

    Raises:
        UsageError: the bundle has no such target.
    """
    names = [bundle.target(target)] if target is not None else list(bundle.reports)
    found = []
    for name in names:
        began = time.monotonic()
        progress.start(f"check:{name}")
        checked = judged(bundle, name)
        if checked.verdict == "load":
            checked = _tried(bundle, checked)
        seconds = time.monotonic() - began
        progress.finish(seconds, reused=False)
        found.append(checked.model_copy(update={"seconds": round(seconds, 3)}))
    return found


def judged(bundle: Bundle, name: str, free_bytes: int | None = None) -> Checked:
    """What is to be done with a target's engine here; nothing is loaded.

    Args:
        bundle: verified.
        name: of the target.
        free_bytes: of memory; as the system tells where it is None.
    """
    target, report, recipe = Target.parse(name), bundle.reports[name], bundle.manifest.recipe
    runtime = runtime_for(target)
    runs = runtime.runs(target)
    if not runs.usable:
        return Checked(target=name, verdict="never", reason=runs.reason, remedy=runs.remedy)
    compiling = f"dnexport compile {bundle.path} --target {name}"
    unjudged = saturates_unjudged(bundle, target)
    refusal = None if report.companion else stand_in_refusal(target, recipe.precision, recipe.allow_execution)
    if refusal is not None and (report.file is None or unjudged):
        remedy = f"build the bundle again: {refusal.remedy}"
        return Checked(target=name, verdict="never", reason=refusal.message, remedy=remedy)
    if report.file is None:
        reason = f"it is {report.status}, not built{_builder_on_orin(target)}"
        return Checked(target=name, verdict="rebuild", reason=reason, remedy=compiling)
    if unjudged:
        return Checked(target=name, verdict="rebuild", reason=unjudged, remedy=compiling)
    free = _free_bytes() if free_bytes is None else free_bytes
    needed = _MEMORY_FACTOR * (report.bytes or 0)
    if free is not None and free < needed:
        reason = f"{free / 1e6:.0f} MB of memory are free, and about {needed / 1e6:.0f} MB are needed"
        return Checked(target=name, verdict="never", reason=reason, remedy="free some memory")
    if (other := _another_build(bundle, name)) is not None:
        return Checked(target=name, verdict="rebuild", reason=other, remedy=compiling)
    package, versions = package_of(target), package_versions()
    here, there = versions.get(package), _built_with(bundle, name).get(package)
    made_with = f"{package} {there}" if there else f"another package than {package}"
    reason = runs.reason if here == there else f"{runs.reason}; the bundle was made with {made_with}"
    warnings = warnings_about(target, recipe.precision, versions)
    return Checked(target=name, verdict="load", reason=reason, warnings=(*warnings, *_older_driver(bundle, name)))


def _another_build(bundle: Bundle, name: str) -> str | None:
    """Why a plan is not one for this machine: plans are native code, of one library and one kind of GPU."""
    target, engine = Target.parse(name), bundle.engine(name)
    if target.runtime not in ("tensorrt", "tensorrt-rtx") or engine is None:
        return None
    package, built_with = package_of(target), _built_with(bundle, name)
    here, there = package_versions().get(package), built_with.get(package)
    compatible = bundle.manifest.recipe.engine
    if here != there and not compatible.version_compatible:
        was, now = _with_jetpack(there, built_with), _with_jetpack(here, gpu_identity())
        return f"the plan is of {package} {was}, here is {now}"
    of, found = built_with.get("capability"), gpu_identity().get("capability")
    newer = compatible.hardware_compatibility == "ampere+" and min(_number(of), _number(found)) >= _AMPERE
    portable = target.runtime == "tensorrt-rtx" or newer
    if of is not None and found != of and not portable:
        return f"the plan is of a GPU of {of} ({built_with.get('gpu')}), here is {found}"
    return runtime_for(target).judges(engine)


def _builder_on_orin(target: Target) -> str:
    """Which TensorRT of which JetPack builds a prepared target on this board; nothing on another machine."""
    version = package_versions().get("tensorrt")
    if target.runtime != "tensorrt" or version is None or not _is_orin(gpu := gpu_identity()):
        return ""
    return f"; TensorRT {_with_jetpack(version, gpu)} builds it on this board"


def _with_jetpack(version: str | None, gpu: Mapping[str, str]) -> str:
    """A version of TensorRT, and for Orin's GPU the JetPack that brings it: both are updated together."""
    found = next((name for start, name in _JETPACKS if _is_orin(gpu) and f"{version}.".startswith(start)), None)
    return f"{version} ({found})" if found else f"{version}"


def _is_orin(gpu: Mapping[str, str]) -> bool:
    """By capability, or by name where the board's driver tells no capability."""
    return gpu.get("capability") == _ORIN or "Orin" in gpu.get("gpu", "")


def _number(capability: str | None) -> int:
    digits = (capability or "").removeprefix("sm")
    return int(digits) if digits.isdigit() else 0


def _older_driver(bundle: Bundle, name: str) -> tuple[str, ...]:
    if Target.parse(name).device != "cuda":
        return ()
    of, here = _built_with(bundle, name).get("driver"), gpu_identity().get("driver")
    if of is None or here is None or _major(here) >= _major(of):
        return ()
    return (f"the driver {here} is older than {of}, with which the engine was built",)


def _major(version: str) -> int:
    digits = version.partition(".")[0]
    return int(digits) if digits.isdigit() else 0


def _built_with(bundle: Bundle, name: str) -> dict[str, str]:
    return bundle.reports[name].built_with or bundle.manifest.environment.versions


def _tried(bundle: Bundle, checked: Checked) -> Checked:
    try:
        return checked.model_copy(update={"self_test": self_test(bundle, checked.target)})
    except DnexportError as exc:
        update = {"verdict": "rebuild", "reason": exc.message, "remedy": exc.remedy}
        return checked.model_copy(update=update)


def self_test(bundle: Bundle, name: str) -> SelfTest:
    """Golden samples through an engine, in a worker.

    Raises:
        DnexportError: it cannot be loaded, or crashes.
    """
    engine, golden, profile = (
        engine_from_bundle(bundle, Target.parse(name)),
        bundle.golden(),
        bundle.manifest.recipe.profile,
    )
    images = feed_from_pixels(golden.images[:_SAMPLES], bundle.manifest.preprocess)(engine.input_type)
    reference = golden.logits[: len(images)]
    batches = sorted({profile.min_batch, profile.max_batch})
    with engine.probe("running", batch=batches[0]) as worker:
        parts = [worker.method("logits", whole_batches(images, batch), batch) for batch in batches]
    answers = [np.concatenate(each)[: len(images)] for each in parts]
    floor = _floor(bundle.reports[name], engine, bundle.manifest.weights.trained)
    found = [snr_db(reference, each) for each in answers]
    worst = min(found, key=lambda snr: np.inf if snr is None else snr)
    passed = worst is None or worst >= floor
    return SelfTest(
        samples=len(images),
        batches=tuple(batches),
        snr_db=worst,
        floor_db=floor,
        agreement=min(float((each.argmax(1) == reference.argmax(1)).mean()) for each in answers),
        between_db=snr_db(answers[0], answers[-1]),
        passed=passed,
        taps=() if passed else _taps(bundle, engine),
    )


def _taps(bundle: Bundle, engine: Engine) -> tuple[Tap, ...]:
    """Where the engine goes wrong; nothing where the bundle has no taps, or a tapped engine cannot be had."""
    recorded = bundle.taps()
    if not recorded:
        return ()
    count = len(next(iter(recorded.values())))
    images = feed_from_pixels(bundle.golden().images[:count], bundle.manifest.preprocess)(engine.input_type)
    graph = bundle.path / "targets" / engine.target.slug / "model.onnx"
    try:
        return taps_of_engine(engine, graph, images, recorded, build_options(bundle.manifest.recipe, engine.target))
    except DnexportError:
        return ()


def _floor(report: TargetReport, engine: Engine, trained: bool) -> float:
    """What the build measured on its test images, less what so few samples can vary.

    Where it measured other arithmetic than this machine's, or the lowered graph only, no more than a build here asks.
    """
    measured = report.accuracy or report.graph_accuracy
    snr = measured.snr_db if measured is not None else None
    floor = (_EXACT_DB if snr is None else snr) - _VARIES_DB
    here = runtime_for(engine.target).execution(engine.precision, engine.target, engine.allowed)
    if report.accuracy is not None and report.executed_precision is here:
        return floor
    least = INT8_PARITY_FLOOR_DB if engine.precision is Precision.INT8 else parity_floor(here, trained)
    return min(floor, least)


def _free_bytes() -> int | None:
    """Memory that can be had without swapping; None where the system does not tell."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    lines = (line.split() for line in info.read_text().splitlines())
    return next((int(fields[1]) * 1024 for fields in lines if fields[0] == "MemAvailable:"), None)
