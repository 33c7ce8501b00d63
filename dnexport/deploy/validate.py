"""Prove that an engine is the network it was built from: same logits as PyTorch, and as another runtime.

The floors are for gross errors: an engine below them computes another network. How much accuracy a precision may cost
is the user's budget, not a floor.
"""

import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from dnexport.data.images import Fed, PixelPart, feed_from_pixels, thumbnail_from_pixels
from dnexport.data.imageset import ImageSet
from dnexport.deploy.engine import Engine
from dnexport.errors import BuildFailed, ParityFailed
from dnexport.measure.accuracy import accuracy_from_logits, snr_db
from dnexport.runtimes.arrays import Logits, LogitsPart
from dnexport.runtimes.contract import Executed
from dnexport.runtimes.registry import runtime_for
from dnexport.spec.metrics import Accuracy, CrossCheck, decibel_text
from dnexport.spec.precision import SATURATION, Execution, Precision, asked_execution
from dnexport.spec.preprocess import InputType, Preprocess
from dnexport.spec.profile import Profile
from dnexport.spec.recipe import StandIn
from dnexport.spec.target import Target

# Centred SNR in decibel, below what any network of the family shows, trained or random: f32 92 and more, f16 28 to 58,
# bf16 11 to 45, trained INT8 30 (docs/results.md).
PARITY_FLOORS_DB = {
    Execution.F32: 60.0,
    Execution.F16: 20.0,
    Execution.BF16: 6.0,
}
INT8_PARITY_FLOOR_DB = 6.0
# densenet121 of random weights is at 15 dB where int8 saturates.
UNTRAINED_SATURATING_FLOOR_DB = 0.0
# A deep network of random weights turns rounding into noise: dpn98 is at 19 dB in f16, dpn92 at 6 dB in bf16. What
# computes something else is still below these.
UNTRAINED_FLOORS_DB = {Execution.F16: 8.0, Execution.BF16: 0.0}
# Two runtimes on one INT8 graph: 48 dB on a trained net of 40 layers. In deeper nets one code that rounds the other way
# changes codes in every later layer, so that two right answers can be as far apart as INT8 is from FP32; then both are
# equally near to PyTorch, and a runtime that miscomputes is not.
CROSS_CHECK_FLOOR_DB = 35.0
CROSS_CHECK_MARGIN_DB = 3.0
_DECODED = 64  # images at a time
_ORT_CPU = Target.parse("onnxruntime:cpu")


@dataclass(frozen=True)
class Samples:
    """What an engine is validated on.

    Attributes:
        batches: a fresh iteration over the inputs, of the type it is asked for, each time it is called.
        count: number of images.
        reference: PyTorch's logits.
        labels: int64, −1 where unknown.
        batch: images a query.
        least: that the engine takes; a smaller rest is filled up, and what was added is not compared.
        trained: the network is; a deep one of random weights turns INT8's rounding into noise as large as its signal,
            so that only the second runtime can judge its INT8 engine.
        multi_label: each logit is a question of its own, answered at a sigmoid of 0.5.
        at_hand: no image is decoded while the engine waits.
        thumbnails: of the images at some indices, made when they are asked for; None where there are no pixels.
    """

    batches: Callable[[InputType], Iterable[Fed]]
    count: int
    reference: Logits
    labels: np.ndarray
    batch: int
    trained: bool = True
    multi_label: bool = False
    least: int = 1
    at_hand: bool = True
    thumbnails: Callable[[Sequence[int]], Sequence[str]] | None = None


def samples_from_images(
    images: ImageSet,
    preprocess: Preprocess,
    reference: Logits,
    profile: Profile,
    *,
    batch: int,
    trained: bool,
    multi_label: bool,
) -> Samples:
    """A test set, decoded anew on each pass.

    Args:
        images: the set.
        preprocess: of the network.
        reference: PyTorch's logits on it.
        profile: of the engine.
        batch: images a query.
        trained: as in `Samples`.
        multi_label: as in `Samples`.
    """

    def thumbnails(indices: Sequence[int]) -> list[str]:
        return [thumbnail_from_pixels(each, preprocess) for each in images.subset(indices).pixels(preprocess)]

    return Samples(
        functools.partial(fed_from_images, images, preprocess),
        len(images),
        reference,
        images.truth(),
        batch,
        trained,
        multi_label,
        profile.min_batch,
        images.at_hand,
        thumbnails,
    )


def samples_from_pixels(
    pixels: PixelPart, preprocess: Preprocess, reference: Logits, labels: np.ndarray, batch: int
) -> Samples:
    """Images that are decoded already, of a trained network with one answer an image that takes any batch."""
    feed = feed_from_pixels(pixels, preprocess)

    def thumbnails(indices: Sequence[int]) -> list[str]:
        return [thumbnail_from_pixels(pixels[i], preprocess) for i in indices]

    return Samples(lambda kind: [feed(kind)], len(labels), reference, labels, batch, thumbnails=thumbnails)


def fed_from_images(images: ImageSet, preprocess: Preprocess, input_type: InputType) -> Iterator[Fed]:
    """A test set as an engine of that input type takes it, some images at a time."""
    for pixels in images.batches(preprocess, _DECODED):
        yield feed_from_pixels(pixels, preprocess)(input_type)


@dataclass(frozen=True)
class Validated:
    """What validation found."""

    accuracy: Accuracy
    executed: Executed
    cross_check: CrossCheck | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of how it was executed."""
        if self.executed.execution is not Execution.INT8_SATURATING_F32:
            return ()
        return (f"int8 saturates: {SATURATION}; x86 with VNNI and ARM compute the same engine exactly",)

    @property
    def fields(self) -> dict[str, object]:
        """Of a target's report."""
        return {
            "status": "validated",
            "accuracy": self.accuracy,
            "cross_check": self.cross_check,
            "executed_precision": self.executed.execution,
            "proof": self.executed.proof,
        }


def validate_engine(engine: Engine, graph: Path, samples: Samples, tick: Callable[[int, int], None]) -> Validated:
    """Run an engine over the samples and compare.

    Args:
        engine: to be proved.
        graph: the canonical graph with its Q/DQ; for INT8 ONNX Runtime, where it is here, runs it as second opinion.
        samples: what it is run on.
        tick: told how many of how many images are done.

    Raises:
        ParityFailed: below the floor of what it executes, or, INT8, too far from the other runtime.
        WorkerCrashed: the runtime crashes.
    """
    target, precision = engine.target, engine.precision
    answered = engine_logits(engine, samples, tick)
    logits, executed = answered.logits, answered.executed
    accuracy = compared(samples, answered)
    # A runtime that simulates int8 in float has int8's floor.
    floor = INT8_PARITY_FLOOR_DB if precision is Precision.INT8 else parity_floor(executed.execution, samples.trained)
    saturates = executed.execution is Execution.INT8_SATURATING_F32
    if saturates and not samples.trained:
        floor = UNTRAINED_SATURATING_FLOOR_DB
    if samples.trained or saturates or precision is not Precision.INT8:
        check_parity(str(target), accuracy, floor)
    cross_check = None
    if precision is Precision.INT8 and target != _ORT_CPU and runtime_for(_ORT_CPU).runs(_ORT_CPU).usable:
        other = engine_logits(Engine(_ORT_CPU, graph, precision), samples, tick).logits
        # What saturates is known to differ from the other runtime, and has been judged by its floor.
        cross_check = (
            cross_check_of(logits, str(_ORT_CPU), other, samples.reference)
            if saturates
            else check_against(str(target), logits, str(_ORT_CPU), other, samples.reference)
        )
    return Validated(accuracy, executed, cross_check)


@dataclass(frozen=True)
class Answered:
    """What an engine answered.

    Attributes:
        logits: of all samples.
        executed: the arithmetic.
        waited_share: of the time it took, what went by until images were decoded; None where they were at hand.
    """

    logits: Logits
    executed: Executed
    waited_share: float | None


def engine_logits(engine: Engine, samples: Samples, tick: Callable[[int, int], None]) -> Answered:
    """All logits of an engine in a worker; memory does not grow with the images."""
    with engine.probe("running", batch=samples.batch) as worker:
        executed: Executed = worker.method("executed", engine.macs)
        parts: list[LogitsPart] = []
        done, waited = 0, 0.0
        began = asked = time.monotonic()
        for images in samples.batches(engine.input_type):
            waited += time.monotonic() - asked
            parts += worker.method("logits", images, samples.batch, samples.least)
            done += len(images)
            tick(done, samples.count)
            asked = time.monotonic()
        share = None if samples.at_hand else waited / (time.monotonic() - began)
    return Answered(np.concatenate(parts), executed, share)


def compared(samples: Samples, answered: Answered) -> Accuracy:
    """Answers against the reference and the labels, with the pictures of the images that a reader should look at."""
    accuracy = accuracy_from_logits(samples.reference, answered.logits, samples.labels, multi_label=samples.multi_label)
    shown = accuracy.shown
    if samples.thumbnails is not None:
        pictures = samples.thumbnails([each.index for each in shown])
        pairs = zip(shown, pictures, strict=True)
        shown = tuple(each.model_copy(update={"thumbnail": picture}) for each, picture in pairs)
    return accuracy.model_copy(update={"shown": shown, "waited_share": answered.waited_share})


def check_execution(target: Target, precision: Precision, executed: Executed, allowed: Sequence[str]) -> None:
    """Refuse an engine that computes in something else than what was asked for.

    Args:
        target: of the engine.
        precision: asked for.
        executed: as its kernels show.
        allowed: what else it may execute.

    Raises:
        BuildFailed: it executes neither.
    """
    asked, word = asked_execution(precision, target.device), executed.execution.stand_in
    if executed.execution is not asked and word not in allowed:
        say = f", or say --allow-execution {word}" if word in get_args(StandIn) else ""
        raise BuildFailed(
            f"{target} executes {executed.execution} where {asked} was asked for ({executed.proof.statement})",
            f"build for another target or precision{say}",
        )


def check_parity(target: str, accuracy: Accuracy, floor_db: float) -> None:
    """Refuse an engine that computes another network.

    Raises:
        ParityFailed: its SNR is below the floor.
    """
    if accuracy.snr_db is not None and not accuracy.snr_db >= floor_db:
        raise ParityFailed(
            f"{target} answers at {accuracy.snr_db:.1f} dB of PyTorch's logits where at least {floor_db:g} dB"
            f" are expected ({accuracy.agreement:.1%} of {accuracy.samples} answers agree)",
            "try another target or version of that library; the engine is not kept",
        )


def check_against(target: str, logits: Logits, other_target: str, other: Logits, reference: Logits) -> CrossCheck:
    """Compare two runtimes on one graph, and refuse an engine that computes another one.

    Args:
        target: of the engine.
        logits: its answers.
        other_target: the second opinion.
        other: its answers.
        reference: PyTorch's, which decides where rounding has driven two right answers apart.

    Raises:
        ParityFailed: they differ by more than rounding explains; both are named.
    """
    found = cross_check_of(logits, other_target, other, reference)
    between, own, others = found.snr_db, snr_db(reference, logits), found.other_snr_db
    near = between is None or between >= CROSS_CHECK_FLOOR_DB
    if not near and (own is None or others is None or not own >= others - CROSS_CHECK_MARGIN_DB):
        raise ParityFailed(
            f"{target} and {other_target} disagree on the same INT8 graph: {between:.1f} dB between them, and"
            f" {decibel_text(own)} and {decibel_text(others)} to PyTorch",
            f"{target} miscomputes it; build for another target or version",
        )
    return found


def cross_check_of(logits: Logits, other_target: str, other: Logits, reference: Logits) -> CrossCheck:
    """What `check_against` judges."""
    between, others = snr_db(other, logits), snr_db(reference, other)
    return CrossCheck(against=other_target, snr_db=between, other_snr_db=others, floor_db=CROSS_CHECK_FLOOR_DB)


def parity_floor(execution: Execution, trained: bool) -> float:
    """The floor of an engine whose arithmetic is ``execution``."""
    floor = PARITY_FLOORS_DB[execution]
    return floor if trained else UNTRAINED_FLOORS_DB.get(execution, floor)


def graph_floor(precision: Precision, trained: bool) -> float:
    """The floor of a lowered graph that ONNX Runtime computes in place of its engine."""
    if precision is Precision.INT8:
        return INT8_PARITY_FLOOR_DB
    return parity_floor(Execution.F32 if precision is Precision.FP32 else Execution.F16, trained)
