"""Prove that an engine is the network it was built from: same logits as PyTorch, and as another runtime.

The floors are for gross errors: an engine below them computes another network. How much accuracy a precision may cost
is the user's budget, not a floor.
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnexport.data.images import InputPart
from dnexport.deploy.compile import probe_worker, session_options
from dnexport.errors import ParityFailed
from dnexport.measure.accuracy import accuracy_from_logits, snr_db
from dnexport.measure.latency import Probe
from dnexport.runtimes.arrays import Logits, LogitsPart
from dnexport.runtimes.contract import Executed
from dnexport.runtimes.registry import open_session, runtime_for
from dnexport.spec.metrics import Accuracy, CrossCheck, decibel_text
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.target import Target

# Centred SNR in decibel, below what any network of the family shows, trained or random: f32 92 and more, f16 28 to 58,
# bf16 11 to 45, trained INT8 30 (docs/results.md).
PARITY_FLOORS_DB = {
    Execution.F32: 60.0,
    Execution.F16: 20.0,
    Execution.BF16: 6.0,
}
INT8_PARITY_FLOOR_DB = 6.0
# Two runtimes on one INT8 graph: 48 dB on a trained net of 40 layers. In deeper nets one code that rounds the other way
# changes codes in every later layer, so that two right answers can be as far apart as INT8 is from FP32; then both are
# equally near to PyTorch, and a runtime that miscomputes is not.
CROSS_CHECK_FLOOR_DB = 35.0
CROSS_CHECK_MARGIN_DB = 3.0
_ORT_CPU = Target.parse("onnxruntime:cpu")


@dataclass(frozen=True)
class Samples:
    """What an engine is validated on.

    Attributes:
        batches: a fresh iteration over the inputs, float32, each time it is called.
        count: number of images.
        reference: PyTorch's logits.
        labels: int64, −1 where unknown.
        batch: images a query.
        trained: the network is; a deep one of random weights turns INT8's rounding into noise as large as its signal,
            so that only the second runtime can judge its INT8 engine.
        multi_label: each logit is a question of its own, answered at a sigmoid of 0.5.
    """

    batches: Callable[[], Iterable[InputPart]]
    count: int
    reference: Logits
    labels: np.ndarray
    batch: int
    trained: bool = True
    multi_label: bool = False


@dataclass(frozen=True)
class Validated:
    """What validation found."""

    accuracy: Accuracy
    executed: Executed
    cross_check: CrossCheck | None


def validate_engine(
    engine: Path, graph: Path, target: Target, precision: Precision, samples: Samples, tick: Callable[[int, int], None]
) -> Validated:
    """Run an engine over the samples and compare.

    Args:
        engine: the file.
        graph: the canonical graph with its Q/DQ; for INT8 ONNX Runtime, where it is here, runs it as second opinion.
        target: of the engine.
        precision: asked for.
        samples: what it is run on.
        tick: told how many of how many images are done.

    Raises:
        ParityFailed: below the floor of what it executes, or, INT8, too far from the other runtime.
        WorkerCrashed: the runtime crashes.
    """
    logits, executed = engine_logits(engine, target, precision, samples, tick)
    accuracy = accuracy_from_logits(samples.reference, logits, samples.labels, multi_label=samples.multi_label)
    # A runtime that simulates int8 in float has int8's floor.
    floor = INT8_PARITY_FLOOR_DB if precision is Precision.INT8 else PARITY_FLOORS_DB[executed.execution]
    if samples.trained or precision is not Precision.INT8:
        check_parity(str(target), accuracy, floor)
    cross_check = None
    if precision is Precision.INT8 and target != _ORT_CPU and runtime_for(_ORT_CPU).runs(_ORT_CPU).usable:
        other, _ = engine_logits(graph, _ORT_CPU, precision, samples, tick)
        cross_check = check_against(str(target), logits, str(_ORT_CPU), other, samples.reference)
    return Validated(accuracy, executed, cross_check)


def engine_logits(
    engine: Path, target: Target, precision: Precision, samples: Samples, tick: Callable[[int, int], None]
) -> tuple[Logits, Executed]:
    """All logits of an engine in a worker, and what it executed; memory does not grow with the images."""
    options = session_options(precision, target)
    with probe_worker(f"running {target}", target, options.threads) as worker:
        worker.create(Probe, functools.partial(open_session, engine, target, options), np.empty((0,), np.float32))
        executed: Executed = worker.method("executed")
        parts: list[LogitsPart] = []
        done = 0
        for images in samples.batches():
            parts += worker.method("logits", images, samples.batch)
            done += len(images)
            tick(done, samples.count)
    return np.concatenate(parts), executed


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
    """Compare two runtimes on one graph.

    Args:
        target: of the engine.
        logits: its answers.
        other_target: the second opinion.
        other: its answers.
        reference: PyTorch's, which decides where rounding has driven two right answers apart.

    Raises:
        ParityFailed: they differ by more than rounding explains; both are named.
    """
    between, own, others = snr_db(other, logits), snr_db(reference, logits), snr_db(reference, other)
    near = between is None or between >= CROSS_CHECK_FLOOR_DB
    if not near and (own is None or others is None or not own >= others - CROSS_CHECK_MARGIN_DB):
        raise ParityFailed(
            f"{target} and {other_target} disagree on the same INT8 graph: {between:.1f} dB between them, and"
            f" {decibel_text(own)} and {decibel_text(others)} to PyTorch",
            f"{target} miscomputes it; build for another target or version",
        )
    return CrossCheck(against=other_target, snr_db=between, other_snr_db=others, floor_db=CROSS_CHECK_FLOOR_DB)


def graph_floor(precision: Precision) -> float:
    """The floor of a lowered graph that ONNX Runtime computes in place of its engine."""
    return {
        Precision.FP32: PARITY_FLOORS_DB[Execution.F32],
        Precision.FP16: PARITY_FLOORS_DB[Execution.F16],
        Precision.INT8: INT8_PARITY_FLOOR_DB,
    }[precision]
