"""What all sets of processes come to: the record of an engine beside PyTorch, with what makes its numbers weak."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from dnexport.deploy.engine import Engine
from dnexport.deploy.references import References
from dnexport.measure.conditions import Watch
from dnexport.measure.environment import installed_bytes
from dnexport.measure.latency import (
    Blocks,
    device_times_from_blocks,
    disagreement,
    latency_from_blocks,
    millijoules_per_image,
    ratio_alone,
    ratio_from_blocks,
)
from dnexport.measure.statistics import fewest_samples, median, ratio_interval
from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.registry import runtime_for
from dnexport.runtimes.torch_eager import Device, Form
from dnexport.spec.latency import BatchPoint, Benchmark, ColdStart, PartTime, Ratio, Reference
from dnexport.spec.precision import ACCELERATORS, Precision
from dnexport.spec.recipe import MULTI_STREAM_BATCH, Bench
from dnexport.spec.target import Target

_RESTARTS = Bench().restarts
_OTHERS = 0.05
_DRIFT = 0.05


class Refused(NamedTuple):
    """Why a reference takes no part in the sweep, and from which batch size on."""

    batch: int
    why: str


@dataclass
class Collected:
    """What is known of one session after some sets of processes.

    Attributes:
        blocks: at the asked batch, by set.
        multi_stream: with eight images a query, by set.
        rates: images a second by batch size, by set.
        cold: opening and first query, milliseconds, by set.
        peaks: bytes of memory, by set.
        refused: of a reference that failed in the sweep.
        parts: time by part of the network, of one profile after all else.
        notes: why there is none.
    """

    blocks: list[Blocks] = field(default_factory=list)
    multi_stream: list[Blocks] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=dict)
    cold: list[tuple[float, float]] = field(default_factory=list)
    peaks: list[int | None] = field(default_factory=list)
    refused: Refused | None = None
    parts: tuple[PartTime, ...] = ()
    notes: list[str] = field(default_factory=list)


def benchmark_from_records(
    records: Mapping[str, Collected],
    engine: Engine,
    references: References,
    bench: Bench,
    watch: Watch,
) -> Benchmark:
    """The record of one engine.

    Args:
        records: what was collected of engines, by target, and of references, by form.
        engine: that the record is of.
        references: that were tried and kept.
        bench: how it was measured.
        watch: on the machine meanwhile.
    """
    record, device = records[str(engine.target)], _device(engine)
    kept = references.kept(device)
    threads = bench.threads or available_threads()
    latency = functools.partial(latency_from_blocks, threads=threads)
    peaks = [peak for peak in record.peaks if peak is not None]
    beside = {form: _reference(form, records[str(form)], bench.batch, references.threads[form]) for form in kept}
    best = min(kept, key=lambda form: beside[form].latency.p50_ms, default=None)
    ratios = {form: _speedup(form, records[str(form)], record) for form in kept if form in (kept[0], best)}
    beside_it = records.get(float_name(engine.target))
    over_float = ratio_from_blocks(beside_it.blocks, record.blocks) if beside_it else None
    notes = [*record.notes, *_absences(records, references, device), *(note for _, note in ratios.values() if note)]
    swept = [records[str(form)] for form in references.swept(device)]
    queries = sum(blocks.queries for blocks in record.blocks)
    quantiles = [("p90", 0.90, queries), ("p99", 0.99, queries)]
    if record.multi_stream:
        eights = sum(blocks.queries for blocks in record.multi_stream)
        quantiles.append((f"p99 of queries of {MULTI_STREAM_BATCH}", 0.99, eights))
    return Benchmark(
        latency=latency(record.blocks, batch=bench.batch),
        device=device_times_from_blocks(record.blocks),
        references=tuple(beside.values()),
        forms_tried={str(form): ms for form, ms in references.tried.get(device, {}).items()},
        over_eager=ratios[kept[0]][0] if kept else None,
        over_best=ratios[best][0] if best is not None else None,
        float_engine=_reference(float_precision(engine.target), beside_it, bench.batch, threads) if beside_it else None,
        over_float=over_float,
        multi_stream=latency(record.multi_stream, batch=MULTI_STREAM_BATCH) if record.multi_stream else None,
        offline=tuple(_point(size, rates, swept) for size, rates in record.rates.items()),
        cold_start=ColdStart(
            open_ms=median([opened for opened, _ in record.cold]),
            first_query_ms=median([first for _, first in record.cold]),
            starts=len(record.cold),
        ),
        peak_memory_bytes=max(peaks) if peaks else None,
        install_bytes=installed_bytes(runtime_for(engine.target).packages(engine.target)),
        millijoules_per_image=millijoules_per_image(record.blocks, bench.batch),
        conditions=watch.readings,
        others_share=watch.others_share,
        parts=record.parts,
        notes=(
            *notes,
            *_weaknesses(record, {str(form): records[str(form)] for form in kept}, bench, quantiles),
            *_disturbances(records, watch),
        ),
    )


def float_precision(target: Target) -> Precision:
    """Of the float engine that an INT8 engine is measured beside: accelerators compute in float16 by themselves."""
    return Precision.FP16 if target.device in ACCELERATORS else Precision.FP32


def float_name(target: Target) -> str:
    """What the float engine beside an INT8 engine is called among the sessions of a run."""
    return f"{target}, float"


def _reference(form: Form | Precision, record: Collected, batch: int, threads: int) -> Reference:
    latency = latency_from_blocks(record.blocks, batch=batch, threads=threads)
    return Reference(form=str(form), latency=latency)


def _absences(records: Mapping[str, Collected], references: References, device: Device) -> list[str]:
    """Which forms of PyTorch took no part, and why."""
    notes = [f"PyTorch {form} took no part: {why}" for form, why in references.failed.items() if form.device == device]
    for form in references.swept(device):
        if (refused := records[str(form)].refused) is not None:
            notes.append(f"PyTorch {form} took no part in the sweep from batch {refused.batch} on: {refused.why}")
    return notes


def _device(engine: Engine) -> Device:
    return "cuda" if engine.target.device == "cuda" else "cpu"


def _speedup(form: Form, reference: Collected, engine: Collected) -> tuple[Ratio | None, str]:
    """The ratio; or None, where blocks alone contradict it, and the note that says so."""
    ratio, alone = (between(reference.blocks, engine.blocks) for between in (ratio_from_blocks, ratio_alone))
    apart = disagreement(alone, ratio)
    if apart is None:
        return ratio, ""
    return None, (
        f"the speed-up over PyTorch {form} is withheld: it is {ratio} in alternating blocks and {alone} in blocks"
        f" alone, {apart:.0%} apart, so the sessions disturb each other"
    )


def _point(size: int, rates: Sequence[float], references: Sequence[Collected]) -> BatchPoint:
    value, low, high = ratio_interval([(rate,) for rate in rates])
    theirs = [ratio_interval([(rate,) for rate in each.rates[size]])[0] for each in references if size in each.rates]
    return BatchPoint(batch=size, images_per_second=value, low=low, high=high, reference=max(theirs, default=None))


def _weaknesses(
    engine: Collected, references: Mapping[str, Collected], bench: Bench, quantiles: Sequence[tuple[str, float, int]]
) -> list[str]:
    """What makes the numbers weak.

    Args:
        engine: what was measured of it.
        references: by form of PyTorch.
        bench: how it was measured.
        quantiles: name, quantile, and of how many queries.
    """
    notes = []
    for label, quantile, queries in quantiles:
        if queries < (needed := fewest_samples(quantile)):
            notes.append(
                f"{label} is withheld: it needs {needed} queries, {queries} were measured;"
                f" 'dnexport bench --queries {needed}' measures them"
            )
    for what, record in {
        "the engine": engine,
        **{f"PyTorch {form}": each for form, each in references.items()},
    }.items():
        if unsteady := sum(not blocks.warm_up.steady for blocks in record.blocks):
            notes.append(f"{unsteady} of {len(record.blocks)} warm-ups ended before {what} was steady within 3 %")
    if not references:
        notes.append("no PyTorch reference here, so no speed-up")
    elif not bench.compile:
        notes.append("torch.compile was not among the PyTorch forms; 'dnexport bench --compile' adds it")
    if bench.restarts < _RESTARTS:
        notes.append(f"{bench.restarts} sets of processes were measured; {_RESTARTS} are the default")
    return notes


def _disturbances(records: Mapping[str, Collected], watch: Watch) -> list[str]:
    """What the machine did beside."""
    notes = []
    if watch.others_share is not None and watch.others_share > _OTHERS:
        notes.append(f"other programs took {watch.others_share:.0%} of the processors' time meanwhile")
    medians = [
        [median([ms for block in blocks.rounds for ms in block.times_ms]) for blocks in record.blocks]
        for record in records.values()
    ]
    drift, _, _ = ratio_interval([(each[-1] / each[0],) for each in medians])
    if abs(drift - 1) > _DRIFT:
        word = "slower" if drift > 1 else "faster"
        notes.append(f"the machine was {max(drift, 1 / drift) - 1:.0%} {word} at the end than at the beginning")
    held_down = sorted({reason for reading in watch.readings for reason in reading.gpu_throttled})
    if held_down:
        notes.append(f"the GPU's clock was held down: {', '.join(held_down)}")
    return notes
