"""Build a bundle's engines on the machine that will run them, from the lowered graphs that the bundle carries.

Needs a runtime and nothing of the host's: neither PyTorch nor ONNX tooling.
"""

import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from dnexport.bundle.pack import staging, write_manifest
from dnexport.bundle.verify import Bundle
from dnexport.deploy.compile import build_options, compile_target
from dnexport.deploy.engine import engine_from_report
from dnexport.deploy.remeasure import golden_samples
from dnexport.deploy.targets import stand_in_refusal
from dnexport.deploy.validate import check_execution, validate_engine
from dnexport.errors import TargetUnavailable
from dnexport.measure.budgets import judgements
from dnexport.measure.environment import environment, package_versions
from dnexport.runtimes.gpu import gpu_identity
from dnexport.runtimes.registry import runtime_for
from dnexport.spec.metrics import TargetReport
from dnexport.spec.progress import Progress
from dnexport.spec.record import digest_from_file
from dnexport.spec.target import Target


def compile_bundle(bundle: Bundle, target: str | None, progress: Progress) -> Bundle:
    """Replace a bundle by one whose engines were built here; what cannot be built leaves it as it was.

    Args:
        bundle: verified.
        target: one of its targets; None for all that have no engine yet.
        progress: told of each.

    Raises:
        UsageError: the bundle has no such target.
        TargetUnavailable: it cannot be built here, or there is nothing to build.
        BuildFailed: the runtime refuses the graph, or the engine is not the network.
    """
    names = [bundle.target(target)] if target is not None else _buildable(bundle, progress)
    for name in names:  # all of them, before the first one takes an hour
        if (obstacle := _obstacle(bundle, name)) is not None:
            raise obstacle
    place = bundle.path.resolve()  # a link to it stays one
    with staging(place) as folder:
        shutil.copytree(bundle.path, folder, dirs_exist_ok=True)
        for name in names:
            _compile(bundle, name, folder, progress)
        for page in ("report.html", "report.json"):  # of the engines that were there
            (folder / page).unlink(missing_ok=True)
        write_manifest(folder, bundle.manifest)
    return Bundle.open(place)


def _buildable(bundle: Bundle, progress: Progress) -> list[str]:
    """Targets without an engine that can have one here; of the others it is said why not."""
    missing = [name for name, report in bundle.reports.items() if not report.file]
    if not missing:
        raise TargetUnavailable(
            f"every target of bundle {bundle.path} has an engine", "name the one to build again with --target"
        )
    obstacles = {name: _obstacle(bundle, name) for name in missing}
    names = [name for name, obstacle in obstacles.items() if obstacle is None]
    for obstacle in obstacles.values():
        if obstacle is not None and not names:
            raise obstacle
        if obstacle is not None:
            progress.warn(str(obstacle))
    return names


def _obstacle(bundle: Bundle, name: str) -> TargetUnavailable | None:
    """Why no engine of a target can be built here."""
    target = Target.parse(name)
    if not (bundle.path / "targets" / target.slug / "model.onnx").is_file():
        error = bundle.reports[name].error
        return TargetUnavailable(f"bundle {bundle.path} holds no graph of {name}: {error}", "build it again")
    found = runtime_for(target).builds(target)
    if not found.usable:
        return TargetUnavailable(f"target {name} cannot be built here: {found.reason}", found.remedy)
    recipe = bundle.manifest.recipe
    refusal = stand_in_refusal(target, recipe.precision, recipe.allow_execution)
    if refusal is None or bundle.reports[name].companion:
        return None
    return TargetUnavailable(refusal.message, f"build the bundle again: {refusal.remedy}")


def _compile(bundle: Bundle, name: str, folder: Path, progress: Progress) -> None:
    target, report = Target.parse(name), bundle.reports[name]
    place = folder / "targets" / target.slug
    graph, options = place / "model.onnx", build_options(bundle.manifest.recipe, target)
    began = time.monotonic()
    progress.start(f"compile:{name}")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        compiled = compile_target(graph, Path(scratch), target, options)
        engine = place / compiled.engine.name
        shutil.copyfile(compiled.engine, engine)
    runs = runtime_for(target).runs(target)
    update: dict[str, Any] = {
        "status": "built",
        "error": None,
        "file": engine.relative_to(folder).as_posix(),
        "bytes": engine.stat().st_size,
        "engine_digest": digest_from_file(engine),
        "proof": compiled.proof,
        "built_with": package_versions() | gpu_identity(),
        "notes": ("built on the machine it runs on",) if runs.usable else (f"not run here: {runs.reason}",),
        # What was measured was of another engine.
        **dict.fromkeys(("accuracy", "cross_check", "benchmark", "executed_precision", "measured_on")),
    }
    if runs.usable:
        built = engine_from_report(report, engine, bundle.manifest.recipe)
        found = validate_engine(built, folder / "model.onnx", golden_samples(bundle), progress.advance)
        if not report.companion:
            check_execution(target, options.precision, found.executed, bundle.manifest.recipe.allow_execution)
        update |= {**found.fields, "measured_on": environment().hardware_digest}
        update["notes"] += found.notes
    report = report.model_copy(update=update)
    judged = judgements(bundle.manifest.recipe.budgets, report)
    _write(report.model_copy(update={"judgements": judged}), place)
    progress.finish(time.monotonic() - began, reused=False)


def _write(report: TargetReport, place: Path) -> None:
    (place / "report.json").write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
