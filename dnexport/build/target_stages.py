"""The stages of one target: lower → compile → validate. A target that fails says so and leaves the others alone."""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter

from dnexport.build.host_stages import GOLDEN, MODEL, Context
from dnexport.build.stages import stage_key
from dnexport.bundle.verify import TAPS
from dnexport.data.images import input_from_pixels
from dnexport.deploy.benchmark import float_precision
from dnexport.deploy.compile import build_options, compile_target
from dnexport.deploy.engine import Engine, engine_from_census
from dnexport.deploy.targets import Chosen
from dnexport.deploy.validate import (
    Samples,
    Validated,
    check_execution,
    check_parity,
    compared,
    engine_logits,
    graph_floor,
    samples_from_images,
    samples_from_pixels,
    validate_engine,
)
from dnexport.errors import DnexportError
from dnexport.measure.environment import machine_identity, package_versions
from dnexport.runtimes.gpu import gpu_identity
from dnexport.runtimes.registry import runtime_for
from dnexport.runtimes.taps import sampled, tapped
from dnexport.spec.metrics import Accuracy, Census, PrecisionProof, TargetReport
from dnexport.spec.precision import Precision
from dnexport.spec.record import digest_from_file
from dnexport.spec.target import Target

_TAPPED_IMAGES = 2
_ORT_CPU = Target.parse("onnxruntime:cpu")
_VALIDATED = TypeAdapter(Validated)
_PROOF: TypeAdapter[PrecisionProof | None] = TypeAdapter(PrecisionProof | None)


@dataclass(frozen=True)
class TargetOutcome:
    """What became of one target.

    Attributes:
        chosen: the target.
        report: for the bundle.
        lowered: folder with its graph; None where lowering failed.
        engine: in its stage folder; None where none was built.
        failure: the error behind ``status: failed``.
    """

    chosen: Chosen
    report: TargetReport
    lowered: Path | None = None
    engine: Engine | None = None
    failure: DnexportError | None = None


def build_target(context: Context, chosen: Chosen, model: Path, referenced: Path) -> TargetOutcome:
    """All stages of one target; errors of the target become its status."""
    name = str(chosen.target)
    lowered: Path | None = None
    try:
        if chosen.refused is not None:
            raise chosen.refused
        lowered = lower(context, chosen.target, model)
        census = Census.model_validate_json((lowered / "census.json").read_bytes())
        report = TargetReport(target=name, status="prepared", companion=chosen.companion, census=census)
        if chosen.action == "prepare":
            notes = (
                f"prepared only ({chosen.reason}): its lowered graph is in the bundle, for the device to build from",
            )
            return TargetOutcome(chosen, _with_graph_accuracy(context, report, lowered, referenced, notes), lowered)
        compiled = compile_lowered(context, chosen.target, lowered)
        engine = engine_of(context, chosen.target, lowered, compiled)
        report = report.model_copy(
            update={
                "status": "built",
                "file": f"targets/{chosen.target.slug}/{engine.file.name}",
                "bytes": engine.file.stat().st_size,
                "engine_digest": digest_from_file(engine.file),
                "built_with": package_versions() | gpu_identity(),
                "proof": _PROOF.validate_json((compiled / "compiled.json").read_bytes()),
            }
        )
        if runtime_for(chosen.target).runs(chosen.target).usable:
            report = _with_validation(context, report, engine, model, referenced)
        else:
            reason = runtime_for(chosen.target).runs(chosen.target).reason
            notes = (f"not run here: {reason}",)
            report = _with_graph_accuracy(context, report, lowered, referenced, notes)
        return TargetOutcome(chosen, report, lowered, engine)
    except DnexportError as exc:
        failed = TargetReport(target=name, status="failed", companion=chosen.companion, error=str(exc))
        return TargetOutcome(chosen, failed, lowered, failure=exc)


def samples_from_test(context: Context, referenced: Path) -> Samples:
    """The whole test set of a build."""
    profile = context.recipe.profile
    return samples_from_images(
        context.data.test,
        context.network.preprocess,
        np.load(referenced / "logits.npy"),
        profile,
        batch=profile.within(32),
        trained=context.source.trained,
        multi_label=context.network.multi_label,
    )


def float_engine(context: Context, target: Target, graph: Path) -> Engine:
    """The engine of the float graph on an INT8 engine's runtime, which shows whether INT8 pays there.

    Args:
        context: of the build.
        target: of the INT8 engine.
        graph: folder of the canonical FP32 graph.

    Raises:
        BuildFailed: the runtime refuses the graph.
        WorkerCrashed: it crashes.
    """
    precision = float_precision(target)
    lowered = lower(context, target, graph, precision)
    engine = engine_of(context, target, lowered, compile_lowered(context, target, lowered, precision))
    return dataclasses.replace(engine, precision=precision)


def lower(context: Context, target: Target, model: Path, precision: Precision | None = None) -> Path:
    """The typed graph of a target (``model.onnx``), and its ``census.json``; of the recipe's precision if None."""
    precision = precision or context.recipe.precision

    def make(folder: Path) -> None:
        from dnexport.graph.census import census_from_model
        from dnexport.graph.contract import apply, model_from_path, save_model
        from dnexport.graph.passes_for import passes_for

        lowered = model_from_path(model / MODEL)
        preprocess = context.network.preprocess if context.recipe.input == "uint8" else None
        apply(passes_for(precision, target, preprocess), lowered)
        save_model(lowered, folder / MODEL)
        (folder / "census.json").write_text(census_from_model(lowered).model_dump_json(), encoding="utf-8")

    inputs = {
        "model": stage_key(model),
        "precision": str(precision),
        "runtime": target.runtime,
        "device": target.device,
        "input": context.recipe.input,
        "preprocess": context.network.preprocess.content_digest() if context.recipe.input == "uint8" else None,
    }
    return context.stages.run(f"lower:{target}", 5, inputs, make)


def compile_lowered(context: Context, target: Target, lowered: Path, precision: Precision | None = None) -> Path:
    """The engine of a target, and what its build proves of its precision (``compiled.json``); as `lower`.

    Raises:
        BuildFailed: the runtime refuses the graph.
        WorkerCrashed: it crashes.
    """
    recipe = context.recipe

    def make(folder: Path) -> None:
        options = build_options(recipe, target)
        options = dataclasses.replace(options, precision=precision or options.precision)
        compiled = compile_target(lowered / MODEL, folder, target, options)
        (folder / "compiled.json").write_bytes(_PROOF.dump_json(compiled.proof))

    inputs = {
        "lowered": stage_key(lowered),
        "target": str(target),
        "profile": str(recipe.profile),
        "options": recipe.engine.content_digest(),
        "machine": machine_identity(),
    }
    return context.stages.run(f"compile:{target}", 2, inputs, make)


def engine_of(context: Context, target: Target, lowered: Path, compiled: Path) -> Engine:
    """The engine in a stage folder."""
    census = Census.model_validate_json((lowered / "census.json").read_bytes())
    file = compiled / runtime_for(target).engine_file
    return engine_from_census(target, file, context.recipe, census)


def _with_validation(
    context: Context, report: TargetReport, engine: Engine, model: Path, referenced: Path
) -> TargetReport:
    def make(folder: Path) -> None:
        samples = samples_from_test(context, referenced)
        found = validate_engine(engine, model / MODEL, samples, context.progress.advance)
        (folder / "validated.json").write_bytes(_VALIDATED.dump_json(found))

    inputs = {
        "compiled": stage_key(engine.file.parent),
        "reference": stage_key(referenced),
        "batch": context.recipe.profile.max_batch,
        "execution": runtime_for(engine.target).execution(engine.precision, engine.target, engine.allowed).value,
        "machine": machine_identity(),
    }
    folder = context.stages.run(f"validate:{engine.target}", 4, inputs, make)
    found = _VALIDATED.validate_json((folder / "validated.json").read_bytes())
    if not report.companion:  # a companion is labelled with what it executes
        check_execution(engine.target, engine.precision, found.executed, context.recipe.allow_execution)
    for note in found.notes:
        context.progress.warn(f"{engine.target}: {note}")
    return report.model_copy(update={**found.fields, "notes": (*report.notes, *found.notes)})


def _with_graph_accuracy(
    context: Context, report: TargetReport, lowered: Path, referenced: Path, notes: tuple[str, ...]
) -> TargetReport:
    """Compare the lowered graph with PyTorch on ONNX Runtime, which computes FP16 graphs in float with FP16 weights."""

    def make(folder: Path) -> None:
        with np.load(referenced / GOLDEN) as golden:
            images, reference, labels = (golden[name][:32] for name in ("images", "logits", "labels"))
        samples = dataclasses.replace(
            samples_from_pixels(images, context.network.preprocess, reference, labels, min(8, len(labels))),
            multi_label=context.network.multi_label,
        )
        graph = Engine(_ORT_CPU, lowered / MODEL, context.recipe.precision, context.recipe.input)
        accuracy = compared(samples, engine_logits(graph, samples, context.progress.advance))
        if context.source.file is not None or context.recipe.precision is not Precision.INT8:
            check_parity(
                f"the lowered graph of {report.target}",
                accuracy,
                graph_floor(context.recipe.precision, context.source.trained),
            )
        (folder / "accuracy.json").write_text(accuracy.model_dump_json(), encoding="utf-8")

    if not runtime_for(_ORT_CPU).runs(_ORT_CPU).usable:
        return report.model_copy(
            update={"notes": (*notes, "its lowered graph was not compared: no ONNX Runtime is here")}
        )
    notes = (*notes, "its lowered graph was compared with PyTorch instead")
    inputs = {"lowered": stage_key(lowered), "reference": stage_key(referenced)}
    folder = context.stages.run(f"check-graph:{report.target}", 3, inputs, make)
    accuracy = Accuracy.model_validate_json((folder / "accuracy.json").read_bytes())
    return report.model_copy(update={"graph_accuracy": accuracy, "notes": notes})


def record_taps(context: Context, model: Path, outcomes: Sequence[TargetOutcome], referenced: Path) -> Path:
    """``taps.npz``: what ONNX Runtime has at the ends of the blocks for two golden samples, by name of the value."""
    lowered = [outcome.lowered for outcome in outcomes if outcome.lowered is not None]

    def make(folder: Path) -> None:
        from dnexport.graph.contract import model_from_path
        from dnexport.graph.taps import tap_names
        from dnexport.runtimes.onnxruntime import float_session

        names = tap_names(model_from_path(model / MODEL), [model_from_path(each / MODEL) for each in lowered])
        with np.load(referenced / GOLDEN) as golden:
            images = input_from_pixels(golden["images"][:_TAPPED_IMAGES], context.network.preprocess)
        session = float_session(tapped((model / MODEL).read_bytes(), names))
        values = session.run(names, {session.get_inputs()[0].name: images}) if names else []
        recorded = {name: sampled(value) for name, value in zip(names, values, strict=True)}
        np.savez(folder / TAPS, **recorded)  # type: ignore[arg-type]

    inputs = {
        "model": stage_key(model),
        "lowered": [stage_key(each) for each in lowered],
        "reference": stage_key(referenced),
    }
    return context.stages.run("taps", 1, inputs, make) / TAPS


def place(outcome: TargetOutcome, folder: Path) -> None:
    """Copy a target's graph and engine, and write its report, into a bundle's ``targets/<slug>``."""
    destination = folder / "targets" / outcome.chosen.target.slug
    destination.mkdir(parents=True)
    for source in (
        outcome.lowered / MODEL if outcome.lowered else None,
        outcome.engine.file if outcome.engine else None,
    ):
        if source is not None and not (destination / source.name).exists():
            shutil.copyfile(source, destination / source.name)
    (destination / "report.json").write_text(outcome.report.model_dump_json(indent=1) + "\n", encoding="utf-8")
