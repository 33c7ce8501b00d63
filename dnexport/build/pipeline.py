"""From a recipe to a bundle.

load → export → passes → reference → (calibrate → quantize) → each target: lower → compile → validate → bench → pack
"""

import dataclasses
import os
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnexport.build.host_stages import (
    GOLDEN,
    MODEL,
    PLAN,
    Context,
    cache_folder,
    calibrate,
    canonical,
    context_from_recipe,
    export,
    plan_from_file,
    reference,
)
from dnexport.build.placement import Quantized, quantized
from dnexport.build.target_stages import TargetOutcome, build_target, float_engine, place, record_taps
from dnexport.bundle.pack import check_replaceable, staging, write_manifest
from dnexport.bundle.verify import TABLE, Bundle
from dnexport.calibrate.table import table_from_path
from dnexport.deploy.bench import bench_images, measure_engines
from dnexport.deploy.engine import Engine
from dnexport.deploy.known_bad import warnings_about
from dnexport.deploy.targets import Chosen, chosen_targets
from dnexport.errors import DnexportError
from dnexport.measure.budgets import judgements
from dnexport.measure.environment import environment, package_versions
from dnexport.report.html import page_from_report
from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.torch_eager import EAGER
from dnexport.spec.manifest import CalibrationSummary, Golden, Manifest, ReferenceRun
from dnexport.spec.precision import Precision
from dnexport.spec.progress import Progress, Recording
from dnexport.spec.recipe import Recipe
from dnexport.spec.record import write_atomically
from dnexport.spec.report import bundle_report, json_from_report, report_from_bundles


@dataclass(frozen=True)
class Built:
    """What a build left.

    Attributes:
        bundle: written and verified.
        failures: of single targets, in their order.
    """

    bundle: Bundle
    failures: tuple[DnexportError, ...]


def build(recipe: Recipe, output: Path, progress: Progress, *, bench: bool = True) -> Built:
    """Build every target of a recipe into the bundle ``output``.

    Args:
        recipe: what to build.
        output: directory of the bundle; an earlier bundle there is replaced in one step at the end.
        progress: told of every stage.
        bench: measure latency too.

    Raises:
        DnexportError: nothing could be built; the first target's error where all failed. Nothing is written then.
    """
    output = Path(os.path.abspath(output))  # '.' and '' have no name and no parent of their own
    check_replaceable(output)
    recording = Recording(progress)
    targets = chosen_targets(recipe)
    with staging(output) as folder:  # from the start: another build of this bundle is refused before it has begun
        failures = _built_into(folder, recipe, targets, output, recording, bench=bench)
    return Built(Bundle.open(output.resolve()), failures)


def _built_into(
    folder: Path, recipe: Recipe, targets: Sequence[Chosen], output: Path, recording: Recording, *, bench: bool
) -> tuple[DnexportError, ...]:
    """Fill a folder with a bundle; the errors of single targets."""
    versions = package_versions()
    for warning in dict.fromkeys(
        w for each in targets for w in warnings_about(each.target, recipe.precision, versions)
    ):
        recording.warn(warning)
    context = context_from_recipe(recipe, cache_folder(output), recording)
    exported = export(context)
    graph = canonical(context, exported)
    referenced = reference(context, exported)
    int8: Quantized | None = None
    if recipe.precision is Precision.INT8:
        int8 = quantized(context, graph, _table(context, graph), referenced, targets)
    model = int8.model if int8 else graph
    outcomes = [build_target(context, chosen, model, referenced) for chosen in targets]
    failures = tuple(outcome.failure for outcome in outcomes if outcome.failure)
    if len(failures) == len(outcomes):
        raise failures[0]
    taps = record_taps(context, model, outcomes, referenced)
    if bench:
        outcomes = _benched(context, outcomes, referenced, graph)
    outcomes = [_judged(recipe, outcome) for outcome in outcomes]
    for failed in (o.report for o in outcomes if o.failure):
        recording.warn(f"target {failed.target} failed: {failed.error}")
    _pack(folder, context, outcomes, model, referenced, taps, int8, output, recording.warnings)
    return failures


def calibration_table(recipe: Recipe, cache: Path, progress: Progress) -> Path:
    """The calibration table of a recipe's network, as a file in the stage cache.

    Raises:
        DnexportError: as `build`, up to the calibration.
    """
    context = context_from_recipe(recipe.model_copy(update={"calibration_table": None}), cache, progress)
    return calibrate(context, canonical(context, export(context))) / TABLE


def canonical_graph(recipe: Recipe, cache: Path, progress: Progress) -> Path:
    """The canonical FP32 graph of a recipe's network, as a file in the stage cache.

    Raises:
        DnexportError: as `build`, up to the passes.
    """
    context = context_from_recipe(recipe, cache, progress)
    return canonical(context, export(context)) / MODEL


def _table(context: Context, graph: Path) -> Path:
    given = context.recipe.calibration_table
    return Path(given) if given else calibrate(context, graph) / TABLE


def _benched(context: Context, outcomes: Sequence[TargetOutcome], referenced: Path, graph: Path) -> list[TargetOutcome]:
    """Measure every validated engine in the same rounds, INT8's beside the float engine of its runtime."""
    engines = [
        outcome.engine for outcome in outcomes if outcome.engine is not None and outcome.report.status == "validated"
    ]
    if not engines:
        return list(outcomes)
    with np.load(referenced / GOLDEN) as golden:
        bench, profile = context.recipe.measured, context.recipe.profile
        images = bench_images(golden["images"], context.network.preprocess, bench, profile)
    factory = context.network.factory(context.source)
    floats = _floats(context, engines, graph) if context.recipe.precision is Precision.INT8 else []
    try:
        measured = context.stages.measure(
            "bench",
            lambda: measure_engines(engines, factory, images, bench, context.progress.advance, floats),
        )
    except DnexportError as exc:  # the engines are proved; only how fast they are is not known
        context.progress.warn(f"latency was not measured: {exc}")
        return list(outcomes)
    return [
        dataclasses.replace(o, report=o.report.model_copy(update={"benchmark": measured.get(o.chosen.target)}))
        for o in outcomes
    ]


def _floats(context: Context, engines: Sequence[Engine], graph: Path) -> list[Engine]:
    """The float engine of each INT8 engine's runtime, as far as it can be had."""
    floats = []
    for engine in engines:
        try:
            floats.append(float_engine(context, engine.target, graph))
        except DnexportError as exc:
            context.progress.warn(f"{engine.target}: no float engine stands beside INT8: {exc}")
    return floats


def _judged(recipe: Recipe, outcome: TargetOutcome) -> TargetOutcome:
    found = judgements(recipe.budgets, outcome.report) if outcome.failure is None else ()
    here = environment().hardware_digest if outcome.report.accuracy is not None else None
    return dataclasses.replace(
        outcome, report=outcome.report.model_copy(update={"judgements": found, "measured_on": here})
    )


def _pack(
    folder: Path,
    context: Context,
    outcomes: Sequence[TargetOutcome],
    model: Path,
    referenced: Path,
    taps: Path,
    int8: Quantized | None,
    output: Path,
    warnings: Sequence[str],
) -> None:
    files = {MODEL: model / MODEL, GOLDEN: referenced / GOLDEN, taps.name: taps}
    files |= {TABLE: int8.table, PLAN: int8.plan} if int8 else {}
    for name, file in files.items():
        shutil.copyfile(file, folder / name)
    for outcome in outcomes:
        place(outcome, folder)
    manifest = _manifest(context, outcomes, referenced, int8, warnings)
    reports = {outcome.report.target: outcome.report for outcome in outcomes}
    whole = bundle_report(manifest, "", reports, str(output))
    report = report_from_bundles([whole], shlex.join(["dnexport", "report", str(output)]))
    write_atomically(folder / "report.html", page_from_report(report).encode())
    write_atomically(folder / "report.json", json_from_report(report).encode())
    write_manifest(folder, manifest)


def _manifest(
    context: Context,
    outcomes: Sequence[TargetOutcome],
    referenced: Path,
    int8: Quantized | None,
    warnings: Sequence[str],
) -> Manifest:
    network = context.network
    with np.load(referenced / GOLDEN) as golden:
        labels = golden["labels"]
    return Manifest(
        name=context.recipe.name,
        recipe=_resolved(context, outcomes),
        arch=network.arch,
        arch_name=network.arch_name,
        preprocess=network.preprocess,
        assumed=network.assumed,
        class_names=network.class_names,
        multi_label=network.multi_label,
        weights=network.weights(context.source),
        golden=Golden(
            source=context.data.test.name,
            test_digest=context.data.test.digest(),
            samples=len(labels),
            labelled=int((labels >= 0).any(axis=1).sum() if labels.ndim == 2 else (labels >= 0).sum()),
        ),
        reference=_reference_run(context, referenced),
        calibration=_calibration(int8) if int8 else None,
        targets={outcome.report.target: outcome.chosen.target.slug for outcome in outcomes},
        stages=context.stages.runs,
        environment=environment(),
        warnings=tuple(warnings),
        files={},
    )


def _calibration(int8: Quantized) -> CalibrationSummary:
    table = table_from_path(int8.table)
    plan = plan_from_file(int8.plan)
    return CalibrationSummary(
        calibration_set=table.calibration_set,
        images=len(table.image_digests),
        tensors=len(table.ranges),
        synthetic=table.synthetic,
        placement=plan.placement,
        layers=len(plan.layers),
        kept=len(plan.kept),
        trials=plan.trials,
        measured_on=plan.measured_on,
    )


def _resolved(context: Context, outcomes: Sequence[TargetOutcome]) -> Recipe:
    """The recipe without questions: which weights ``auto`` found, which targets it chose."""
    source = context.source
    file = str(source.file) if source.file else None
    targets = tuple(outcome.report.target for outcome in outcomes)
    if source.kind == "graph":
        return context.recipe.model_copy(update={"onnx": file, "targets": targets})
    unnamed = "auto" if source.kind == "factory" else f"random:{source.seed}"
    return context.recipe.model_copy(update={"weights": file or unnamed, "targets": targets})


def _reference_run(context: Context, referenced: Path) -> ReferenceRun:
    logits, labels = np.load(referenced / "logits.npy"), np.asarray(context.data.test.labels)
    known = labels >= 0
    top1 = float((logits.argmax(axis=1)[known] == labels[known]).mean()) if known.any() else None
    form = str(EAGER) if context.network.factory(context.source) else f"ONNX Runtime fp32 on {context.recipe.onnx}"
    return ReferenceRun(form=form, threads=available_threads(), top1=top1, samples=len(labels))
