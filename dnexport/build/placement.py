"""Which placement of Q/DQ: the one that was asked for, or, with ``auto``, the faster of those that meet the budget."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnexport.build.host_stages import GOLDEN, PLAN, Context, plan_from_file, quantize
from dnexport.build.stages import stage_key
from dnexport.build.target_stages import compile_lowered, engine_of, lower
from dnexport.calibrate.table import table_from_path
from dnexport.deploy.bench import bench_images, blocks_of_engines
from dnexport.deploy.engine import Engine
from dnexport.deploy.targets import Chosen
from dnexport.errors import BudgetFailed, TargetUnavailable
from dnexport.measure.environment import machine_identity
from dnexport.measure.latency import Blocks, ratio_from_blocks
from dnexport.runtimes.registry import runtime_for
from dnexport.spec.latency import Ratio
from dnexport.spec.precision import Precision
from dnexport.spec.quantization import Placement, Trial
from dnexport.spec.target import Target

PLACEMENTS: tuple[Placement, ...] = ("activation", "state")


@dataclass(frozen=True)
class Quantized:
    """What INT8 engines are built from.

    Attributes:
        model: folder of the quantized graph.
        table: file of its ranges.
        plan: file that says what of it is int8, and what was tried.
    """

    model: Path
    table: Path
    plan: Path


def quantized(context: Context, graph: Path, table: Path, referenced: Path, targets: Sequence[Chosen]) -> Quantized:
    """Quantize in the placement that was asked for, or in both.

    Raises:
        BudgetFailed: no placement that was asked for meets the budget.
        TargetUnavailable: ``auto``, and none of the targets runs here.
    """
    for doubt in table_from_path(table).doubts():
        context.progress.warn(doubt)
    placement = context.recipe.quantization.placement
    if placement == "auto":
        found = _faster(context, graph, table, referenced, _measurable(targets))
    else:
        folder = quantize(context, graph, table, placement)
        found = Quantized(folder, table, folder / PLAN)
    plan = plan_from_file(found.plan)
    if plan.kept and (context.recipe.quantization.has_budget or context.recipe.quantization.plan):
        context.progress.warn(
            f"{len(plan.kept)} of {len(plan.layers)} layers stay in float; the bundle's {PLAN} says which and why"
        )
    for trial in plan.trials:
        context.progress.row(trial.cells())
    return found


def _measurable(targets: Sequence[Chosen]) -> Target:
    for chosen in targets:
        if chosen.action == "build" and runtime_for(chosen.target).runs(chosen.target).usable:
            return chosen.target
    raise TargetUnavailable(
        "placement auto measures on a target that runs here, and none does",
        "name placement activation or state, or add a target such as openvino:cpu",
    )


def _faster(context: Context, graph: Path, table: Path, referenced: Path, target: Target) -> Quantized:
    """Quantize, compile and measure both; the measurement is remembered, since it decides what the build is."""
    tried: dict[Placement, Path | BudgetFailed] = {}
    for placement in PLACEMENTS:
        try:
            tried[placement] = quantize(context, graph, table, placement)
        except BudgetFailed as exc:
            tried[placement] = exc
    folders = {placement: folder for placement, folder in tried.items() if isinstance(folder, Path)}
    if not folders:
        raise next(failure for failure in tried.values() if isinstance(failure, BudgetFailed))

    def make(folder: Path) -> None:
        engines = [_engine(context, target, each) for each in folders.values()]
        with np.load(referenced / GOLDEN) as golden:
            bench, profile = context.recipe.measured, context.recipe.profile
            images = bench_images(golden["images"], context.network.preprocess, bench, profile)
        blocks = blocks_of_engines(engines, images, bench, context.progress.advance)
        measured = dict(zip(folders, blocks, strict=True))
        trials = tuple(_trial(placement, found, measured) for placement, found in tried.items())
        plan = plan_from_file(folders[choice(trials)] / PLAN)
        plan = plan.model_copy(update={"trials": trials, "measured_on": str(target)})
        (folder / PLAN).write_text(plan.model_dump_json(indent=1) + "\n", encoding="utf-8")

    inputs = {
        "quantized": {placement: stage_key(folder) for placement, folder in folders.items()},
        "refused": {placement: str(found) for placement, found in tried.items() if isinstance(found, BudgetFailed)},
        "target": str(target),
        "execution": runtime_for(target).execution(Precision.INT8, target, context.recipe.allow_execution).value,
        "allowed": list(context.recipe.allow_execution),
        "bench": context.recipe.measured.content_digest(),
        "engine": [context.recipe.batch, context.recipe.input, context.recipe.engine.content_digest()],
        "machine": machine_identity(),
    }
    decided = context.stages.run("placement", 3, inputs, make)
    return Quantized(folders[plan_from_file(decided / PLAN).placement], table, decided / PLAN)


def choice(trials: Sequence[Trial]) -> Placement:
    """The state where its whole interval is faster, or where nothing else meets the budget; else the activation."""
    activation, state = (next(trial for trial in trials if trial.placement == name) for name in PLACEMENTS)
    if activation.refused is not None:
        return "state"
    ratio = state.times_faster
    return "state" if ratio is not None and ratio.low is not None and ratio.low > 1 else "activation"


def _engine(context: Context, target: Target, quantized: Path) -> Engine:
    lowered = lower(context, target, quantized)
    return engine_of(context, target, lowered, compile_lowered(context, target, lowered))


def _trial(placement: Placement, found: Path | BudgetFailed, measured: dict[Placement, list[Blocks]]) -> Trial:
    if isinstance(found, BudgetFailed):
        return Trial(placement=placement, refused=found.message)
    plan = plan_from_file(found / PLAN)
    ratio: Ratio | None = None
    if placement != "activation" and "activation" in measured:
        ratio = ratio_from_blocks(measured["activation"], measured[placement])
    return Trial(placement=placement, kept=len(plan.kept), snr_db=plan.snr_db, times_faster=ratio)
