"""Which layers stay in float so that a budget holds.

Each convolution alone is quantized once, and in placement ``state`` each dense block; the noise that is left in the
logits of the tuning images is its sensitivity.
The layers that leave most go back to float, as few as a bisection finds to be enough; the whole is then measured, since
noises need not add.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
from pydantic import ValidationError

from dnexport.calibrate.quantize import kept_by_policy, quantizable_layers, quantize
from dnexport.calibrate.rounding import Rounded
from dnexport.data.images import InputBatch
from dnexport.errors import BudgetFailed, DataError
from dnexport.graph.contract import INPUT, model_from_path
from dnexport.measure.accuracy import snr_db
from dnexport.runtimes.arrays import Logits
from dnexport.runtimes.onnxruntime import float_session
from dnexport.spec.quantization import CalibrationTable, Placement, PlannedLayer, Quantization, QuantizationPlan

_BATCH = 16


@dataclass(frozen=True)
class Tuning:
    """Images that decide, disjoint from those that calibrate and those that test.

    Attributes:
        images: preprocessed.
        labels: int64 [images], −1 where unknown.
    """

    images: InputBatch
    labels: np.ndarray


def plan_within_budget(
    graph: Path,
    table: CalibrationTable,
    options: Quantization,
    rounded: Mapping[str, Rounded],
    tuning: Tuning,
    tick: Callable[[int, int], None],
) -> QuantizationPlan:
    """The plan that meets ``options.min_snr`` and ``options.max_drop`` with the fewest layers in float.

    Raises:
        DataError: a loss of top-1 is to be limited, and no tuning image has a label.
        BudgetFailed: none does that leaves a layer in int8; the closest is named.
    """
    if options.max_drop is not None and not (tuning.labels >= 0).any():
        raise DataError(
            "max_drop counts right answers, and the tuning images have no labels",
            "give data with one label an image, or --min-snr",
        )
    model = model_from_path(graph)
    policy = kept_by_policy(model, options)
    layers = [each for each in quantizable_layers(model, table, options.settled_placement) if each not in policy]
    reference = _logits(model, tuning)

    def quantized(kept: Collection[str]) -> Logits:
        return _quantized_logits(graph, table, options, rounded, {*policy, *kept}, tuning)

    if _holds(whole := quantized(()), reference, tuning, options):
        return _plan(model, table, options, {}, (), snr_db(reference, whole))
    sensitivity: dict[str, float | None] = {}
    for done, layer in enumerate(layers, start=1):
        sensitivity[layer] = snr_db(reference, quantized([other for other in layers if other != layer]))
        tick(done, len(layers))
    worst_first = sorted(layers, key=lambda layer: _or_exact(sensitivity[layer]))
    last = quantized(worst_first[:-1])
    if not _holds(last, reference, tuning, options):
        raise BudgetFailed(
            f"the budget ({_wanted(options)}) is not met even with {worst_first[-1]} alone in int8: "
            f"{_reached(last, reference, tuning)}",
            "ask for less, or build --fp16",
        )
    enough, too_few = len(layers) - 1, 0
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if _holds(found := quantized(worst_first[:middle]), reference, tuning, options):
            enough, last = middle, found
        else:
            too_few = middle
    return _plan(model, table, options, sensitivity, worst_first[:enough], snr_db(reference, last))


def plan_without_budget(graph: Path, table: CalibrationTable, options: Quantization) -> QuantizationPlan:
    """Everything in int8 that no policy keeps in float."""
    return _plan(model_from_path(graph), table, options, {}, (), None)


def plan_from_path(path: Path, graph: Path, table: CalibrationTable, placement: Placement) -> QuantizationPlan:
    """A plan that was made, or edited, before.

    Raises:
        DataError: unreadable, of another graph or placement, or naming layers that the graph does not have.
    """
    try:
        plan = QuantizationPlan.model_validate_json(path.read_bytes())
    except OSError as exc:
        raise DataError(f"quantization plan {path} cannot be read", "check the path") from exc
    except ValidationError as exc:
        raise DataError(f"quantization plan {path} is not a plan", "take plan.json of a bundle") from exc
    if plan.graph_digest != table.graph_digest:
        raise DataError(
            f"quantization plan {path} is of graph {plan.graph_digest[:12]}, this graph is {table.graph_digest[:12]}",
            "build with --min-snr or --max-drop to make one for it",
        )
    if plan.placement != placement:
        raise DataError(
            f"quantization plan {path} is of placement {plan.placement}, and {placement} is asked for",
            f"build with --placement {plan.placement}",
        )
    known = quantizable_layers(model_from_path(graph), table, placement)
    if unknown := sorted({layer.layer for layer in plan.layers} - set(known)):
        raise DataError(f"quantization plan {path} names the layer '{unknown[0]}', which is not there", "remove it")
    return plan


def _plan(
    model: ir.Model,
    table: CalibrationTable,
    options: Quantization,
    sensitivity: Mapping[str, float | None],
    kept: Collection[str],
    snr: float | None,
) -> QuantizationPlan:
    policy = kept_by_policy(model, options)
    without = "no budget was set" if not options.has_budget else "the budget holds with it"

    def planned(layer: str) -> PlannedLayer:
        alone = sensitivity.get(layer)
        if layer in policy:
            return PlannedLayer(layer=layer, precision="float", why=policy[layer])
        if layer in kept:
            why = f"alone in int8 it leaves {_or_exact(alone):.1f} dB: among the {len(kept)} that cost most"
            return PlannedLayer(layer=layer, precision="float", snr_db=alone, why=why)
        return PlannedLayer(layer=layer, precision="int8", snr_db=alone, why=without)

    layers = quantizable_layers(model, table, options.settled_placement)
    return QuantizationPlan(
        graph_digest=table.graph_digest,
        placement=options.settled_placement,
        layers=tuple(map(planned, layers)),
        snr_db=snr,
    )


def _quantized_logits(
    graph: Path,
    table: CalibrationTable,
    options: Quantization,
    rounded: Mapping[str, Rounded],
    kept: Collection[str],
    tuning: Tuning,
) -> Logits:
    model = model_from_path(graph)
    quantize(model, table, options, rounded, kept)
    return _logits(model, tuning)


def _logits(model: ir.Model, tuning: Tuning) -> Logits:
    session = float_session(ir.to_proto(model).SerializeToString())
    starts = range(0, len(tuning.images), _BATCH)
    return np.concatenate([session.run(None, {INPUT: tuning.images[i : i + _BATCH]})[0] for i in starts])


def _holds(logits: Logits, reference: Logits, tuning: Tuning, options: Quantization) -> bool:
    snr, drop = snr_db(reference, logits), _drop(logits, reference, tuning)
    enough = options.min_snr is None or snr is None or snr >= options.min_snr
    return enough and (options.max_drop is None or drop <= options.max_drop)


def _drop(logits: Logits, reference: Logits, tuning: Tuning) -> float:
    """Points of top-1 lost on the labelled tuning images."""
    known = tuning.labels >= 0
    if not known.any():
        return 0.0
    labels = tuning.labels[known]
    return 100 * float(
        (reference.argmax(axis=1)[known] == labels).mean() - (logits.argmax(axis=1)[known] == labels).mean()
    )


def _or_exact(snr: float | None) -> float:
    return np.inf if snr is None else snr


def _wanted(options: Quantization) -> str:
    parts = [f"at least {options.min_snr:g} dB"] if options.min_snr is not None else []
    parts += [f"at most {options.max_drop:g} points of top-1"] if options.max_drop is not None else []
    return " and ".join(parts)


def _reached(logits: Logits, reference: Logits, tuning: Tuning) -> str:
    snr = snr_db(reference, logits)
    drop = _drop(logits, reference, tuning)
    return f"{'exact' if snr is None else f'{snr:.1f} dB'}, {drop:.2f} points of top-1 on {len(logits)} tuning images"
