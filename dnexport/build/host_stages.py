"""The stages that need the host: load → export → passes → reference → (calibrate → quantize).

Each returns a folder of `Stages`; a stage that is reused imports neither PyTorch nor ONNX.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dnexport.build.network import Network, Source, network_from_source, source_from_recipe
from dnexport.build.samples import BuildData, data_from_recipe, golden_from_test
from dnexport.build.stages import Stages, stage_key
from dnexport.bundle.verify import TABLE
from dnexport.calibrate.table import check_table, save_table, table_from_path
from dnexport.data.datasets import synthetic
from dnexport.data.disjoint import check_apart, check_disjoint
from dnexport.data.images import InputBatch, input_from_pixels
from dnexport.data.imageset import ImageSet
from dnexport.errors import RecipeError
from dnexport.runtimes.arrays import Logits, available_threads, whole_batches
from dnexport.spec.precision import Precision
from dnexport.spec.progress import Progress
from dnexport.spec.quantization import CalibrationTable, Placement, QuantizationPlan
from dnexport.spec.recipe import Recipe
from dnexport.spec.record import digest_from_file

if TYPE_CHECKING:
    from dnexport.graph.contract import Applied

MODEL = "model.onnx"
GOLDEN = "golden.npz"
PLAN = "plan.json"


@dataclass(frozen=True)
class Context:
    """What all stages of one build share."""

    recipe: Recipe
    source: Source
    network: Network
    data: BuildData
    stages: Stages
    progress: Progress


def context_from_recipe(recipe: Recipe, cache: Path, progress: Progress) -> Context:
    """Resolve weights and data.

    Raises:
        CheckpointError: the weights cannot be read or do not fit.
        DataError: the data cannot be read or do not fit.
        RecipeError: INT8 without images, or preprocessing that does not fit.
    """
    stages = Stages(cache, progress)
    source = source_from_recipe(recipe, progress)
    network = _load(recipe, source, stages)
    looks = recipe.quantization.needs_images or recipe.quantization.has_budget
    without = recipe.calibration_table is not None and not looks
    needs_images = recipe.precision is Precision.INT8 and not without
    data = data_from_recipe(
        recipe, network.preprocess, network.class_names, calibrate=needs_images, multi_label=network.multi_label
    )
    return Context(recipe, source, network, data, stages, progress)


def sample_input(context: Context) -> InputBatch:
    """Four synthetic images, for tracing and for comparing graphs."""
    preprocess = context.network.preprocess
    return input_from_pixels(synthetic(4, preprocess).pixels(preprocess), preprocess)


def export(context: Context) -> Path:
    """``model.onnx`` as PyTorch's exporter writes it, checked against PyTorch; or a foreign graph, adopted.

    Raises:
        ParityFailed: it computes something else than what it was made from.
    """
    factory = context.network.factory(context.source)

    def make(folder: Path) -> None:
        from dnexport.models.export import check_logits, export_onnx, graph_logits

        if factory is not None:
            export_onnx(factory(), sample_input(context), folder / MODEL)
            return
        from dnexport.graph.adopt import adopted
        from dnexport.graph.contract import save_model

        assert context.source.file is not None
        images, size = sample_input(context), context.network.preprocess.input_size
        save_model(adopted(context.source.file, size).model, folder / MODEL)
        original = original_logits(context.source.file)(images)
        check_logits("the adopted graph", graph_logits(folder / MODEL, images), "the original", original)

    inputs = {
        "weights": context.source.digest(),
        "arch": context.network.arch.content_digest(),
        "input": list(context.network.preprocess.input_size),
        "answers": context.network.answers,
    }
    return context.stages.run("export", 4, inputs, make)


def canonical(context: Context, exported: Path) -> Path:
    """``model.onnx`` with an FP32 body after the canonical passes; ``passes.json`` says what each did.

    Raises:
        ParityFailed: the rewritten graph computes something else.
    """

    def make(folder: Path) -> None:
        from dnexport.graph.contract import apply, model_digest, model_from_path, save_model
        from dnexport.graph.passes_for import canonical_passes
        from dnexport.models.export import compare_graphs

        model = model_from_path(exported / MODEL)
        applied = apply(canonical_passes(), model)
        save_model(model, folder / MODEL)
        compare_graphs(exported / MODEL, folder / MODEL, sample_input(context))
        _write_passes(applied, folder)
        (folder / "digest").write_text(model_digest(model_from_path(folder / MODEL)), encoding="utf-8")

    return context.stages.run("passes", 2, {"export": stage_key(exported)}, make)


def reference(context: Context, exported: Path) -> Path:
    """The reference's FP32 logits of all test images (``logits.npy``) and the golden samples (``golden.npz``)."""
    network, test = context.network, context.data.test

    def make(folder: Path) -> None:
        import torch

        torch.set_num_threads(available_threads())
        reference_logits = _reference(context)
        kept = golden_from_test(test, network.preprocess)
        logits, golden = [], []
        wanted, done = set(kept), 0
        for pixels in test.batches(network.preprocess, 32):
            logits.append(reference_logits(input_from_pixels(pixels, network.preprocess)))
            golden += [pixels[i] for i in range(len(pixels)) if done + i in wanted]
            done += len(pixels)
            context.progress.advance(done, len(test))
        all_logits, labels = np.concatenate(logits), test.truth()
        np.save(folder / "logits.npy", all_logits)
        np.savez_compressed(folder / GOLDEN, images=np.stack(golden), logits=all_logits[kept], labels=labels[kept])

    inputs = {"export": stage_key(exported), "test": test.digest(), "preprocess": network.preprocess.content_digest()}
    return context.stages.run("reference", 1, inputs, make)


def _reference(context: Context) -> Callable[[InputBatch], Logits]:
    """PyTorch on the module; ONNX Runtime on a foreign graph as it came."""
    factory = context.network.factory(context.source)
    if factory is None:
        assert context.source.file is not None
        return original_logits(context.source.file)
    from dnexport.models.export import reference_logits

    module = factory()
    return lambda images: reference_logits(module, images)


def original_logits(path: Path) -> Callable[[InputBatch], Logits]:
    """ONNX Runtime on a foreign graph, whose batch may be fixed."""
    from dnexport.runtimes.onnxruntime import float_session

    session = float_session(path)
    (taken,) = session.get_inputs()
    step = taken.shape[0] if isinstance(taken.shape[0], int) else None

    def run(images: InputBatch) -> Logits:
        size = step or len(images)
        whole = whole_batches(images, size)
        starts = range(0, len(whole), size)
        found = np.concatenate([session.run(None, {taken.name: whole[i : i + size]})[0] for i in starts])
        logits: Logits = found[: len(images)].reshape(len(images), -1)
        return logits

    return run


def calibrate(context: Context, graph: Path) -> Path:
    """``calibration.json``: the ranges of every quantization point of the canonical graph.

    Raises:
        RecipeError: no images.
        DataError: an image cannot be decoded, or activations are not finite.
    """
    images = context.data.calibration
    if images is None:
        raise RecipeError("there are no images to calibrate with", "add --data DIR or --calibration-data DIR")
    drawn: ImageSet = images

    def make(folder: Path) -> None:
        from dnexport.calibrate.calibrate import table_from_images

        calibration_set = context.recipe.calibration.model_copy(update={"data": drawn.name})
        table = table_from_images(graph / MODEL, drawn, context.network.preprocess, calibration_set, context.progress)
        save_table(table, folder / TABLE)

    inputs = {
        "graph": stage_key(graph),
        "images": drawn.digest(),
        "preprocess": context.network.preprocess.content_digest(),
        "observer": context.recipe.calibration.observer,
        "percentile": context.recipe.calibration.percentile,
    }
    return context.stages.run("calibrate", 5, inputs, make)


def quantize(context: Context, graph: Path, table: Path, placement: Placement) -> Path:
    """``model.onnx`` with Q/DQ, and the plan it follows.

    Raises:
        BudgetFailed: no plan of this placement meets the budget.
        DataError: no table, one of another graph or preprocessing, or calibration images that are also test images.
        GraphError: the graph cannot be quantized so.
    """
    content: CalibrationTable = table_from_path(table)
    if content.synthetic:
        context.progress.warn("INT8 is calibrated on SYNTHETIC images: latency means something, accuracy does not")

    options = context.recipe.quantization.model_copy(update={"placement": placement})
    images, network, tuning = context.data.calibration, context.network, context.data.tuning
    plan_file = Path(options.plan) if options.plan is not None else None

    def make(folder: Path) -> None:
        from dnexport.calibrate.quantize import prepare, quantize, rounded_from_images
        from dnexport.calibrate.sensitivity import Tuning, plan_from_path, plan_within_budget, plan_without_budget
        from dnexport.graph.contract import model_from_path, save_model

        check_disjoint(content, context.data.test, network.preprocess)
        if tuning is not None:
            check_disjoint(content, tuning, network.preprocess, "tuning")
            check_apart(tuning, context.data.test, network.preprocess)
        check_table(content, (graph / "digest").read_text(encoding="utf-8"), network.preprocess)
        prepared = prepare(graph / MODEL, content, options, network.preprocess, folder / "prepared.onnx")
        source, known = prepared.graph, prepared.table
        rounded = rounded_from_images(source, known, options, images, network.preprocess, context.progress)
        if plan_file is not None:
            plan = plan_from_path(plan_file, source, known, placement)
        elif tuning is not None:
            seen = input_from_pixels(tuning.pixels(network.preprocess), network.preprocess)
            judges = Tuning(seen, np.asarray(tuning.labels, np.int64))
            plan = plan_within_budget(source, known, options, rounded, judges, context.progress.advance)
        else:
            plan = plan_without_budget(source, known, options)
        model = model_from_path(source)
        applied = quantize(model, known, options, rounded, plan.kept)
        save_model(model, folder / MODEL)
        source.unlink()
        (folder / PLAN).write_text(plan.model_dump_json(indent=1) + "\n", encoding="utf-8")
        _write_passes((*prepared.applied, *applied), folder)

    inputs = {
        "graph": stage_key(graph),
        "table": content.content_digest(),
        "test": context.data.test.digest(),
        "preprocess": network.preprocess.content_digest(),
        "options": options.content_digest(),
        "plan": digest_from_file(plan_file) if plan_file is not None and plan_file.is_file() else None,
        "images": images.digest() if images is not None and options.needs_images else None,
        "tuning": tuning.digest() if tuning is not None else None,
    }
    return context.stages.run("quantize" if placement == "activation" else f"quantize:{placement}", 6, inputs, make)


def _write_passes(applied: Iterable["Applied"], folder: Path) -> None:
    """``passes.json``: what each pass did."""
    rows = [{"pass": a.name, "modified": a.modified, "declined": list(a.reasons)} for a in applied]
    (folder / "passes.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def plan_from_file(path: Path) -> QuantizationPlan:
    """The plan that a stage has written."""
    return QuantizationPlan.model_validate_json(path.read_bytes())


def _load(recipe: Recipe, source: Source, stages: Stages) -> Network:
    names = Path(recipe.class_names) if recipe.class_names else None
    inputs = {
        "weights": source.digest(),
        "arch": recipe.arch,
        "classes": recipe.classes,
        "preprocess": recipe.preprocess.model_dump(mode="json"),
        "class_names": digest_from_file(names) if names and names.is_file() else recipe.class_names,
    }

    def make(folder: Path) -> None:
        network = network_from_source(recipe, source)
        (folder / "network.json").write_text(network.model_dump_json(), encoding="utf-8")

    if recipe.model is not None:
        # What the user's code does can change without any file that is known here: it is looked at each time.
        return network_from_source(recipe, source)
    folder = stages.run("load", 2, inputs, make)
    return Network.model_validate_json((folder / "network.json").read_bytes())


def cache_folder(output: Path) -> Path:
    """Where the stages of bundles beside ``output`` are kept."""
    return output.parent / ".stages"
