"""Latency of engines beside PyTorch: eager FP32, and the best of its forms."""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from dnexport.data.images import Feed, PixelPart, feed_from_pixels
from dnexport.deploy.engine import Engine
from dnexport.deploy.references import References, WarmSession
from dnexport.errors import DnexportError
from dnexport.measure.conditions import Watch
from dnexport.measure.environment import installed_bytes
from dnexport.measure.latency import (
    Answering,
    Blocks,
    alternate,
    device_times_from_blocks,
    disagreement,
    latency_from_blocks,
    millijoules_per_image,
    ratio_alone,
    ratio_from_blocks,
    warmed_up,
)
from dnexport.measure.parts import part_times
from dnexport.measure.statistics import fewest_samples, median, ratio_interval
from dnexport.runtimes.arrays import available_threads, whole_batches
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.registry import runtime_for
from dnexport.runtimes.torch_eager import Device, Form
from dnexport.spec.latency import BatchPoint, Benchmark, ColdStart, PartTime, Ratio, Reference
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.profile import Profile
from dnexport.spec.recipe import MULTI_STREAM_BATCH, Bench
from dnexport.spec.target import Target

_RESTARTS = Bench().restarts
_OTHERS = 0.05
_DRIFT = 0.05

Tick = Callable[[int, int], None]


@dataclass(frozen=True)
class Images:
    """What queries are made of.

    Attributes:
        feed: of at least as many images as the largest query.
        sweep: the batch sizes of the offline scenario.
    """

    feed: Feed
    sweep: tuple[int, ...] = ()


def bench_images(pixels: PixelPart, preprocess: Preprocess, bench: Bench, profile: Profile) -> Images:
    """Images for the queries of a measurement; they repeat where they are fewer than the largest query takes.

    Args:
        pixels: of golden samples.
        preprocess: of the network.
        bench: its batch and its scenarios.
        profile: of the engines.
    """
    powers = takewhile(lambda size: size < profile.max_batch, (1 << k for k in range(32)))
    sizes = sorted({*(size for size in powers if size >= profile.min_batch), profile.min_batch, profile.max_batch})
    sweep = tuple(sizes) if "offline" in bench.scenarios else ()
    multi = MULTI_STREAM_BATCH if "multi-stream" in bench.scenarios else 1
    largest = max(bench.batch, multi, *sweep)
    return Images(feed_from_pixels(whole_batches(pixels[: max(16, largest)], largest), preprocess), sweep)


@dataclass
class _Record:
    """What is known of one session after some sets of processes.

    Attributes:
        blocks: at the asked batch, by set.
        multi_stream: with eight images a query, by set.
        rates: images a second by batch size, by set.
        cold: opening and first query, milliseconds, by set.
        peaks: bytes of memory, by set.
        parts: time by part of the network, of one profile after all else.
        notes: why there is none.
    """

    blocks: list[Blocks] = field(default_factory=list)
    multi_stream: list[Blocks] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=dict)
    cold: list[tuple[float, float]] = field(default_factory=list)
    peaks: list[int | None] = field(default_factory=list)
    parts: tuple[PartTime, ...] = ()
    notes: list[str] = field(default_factory=list)


def measure_engines(
    engines: Sequence[Engine], factory: Callable[[], Any] | None, images: Images, bench: Bench, tick: Tick
) -> dict[Target, Benchmark]:
    """Measure engines and the PyTorch references in the same alternating rounds.

    Args:
        engines: to be measured.
        factory: makes the PyTorch module in a worker; None where PyTorch or the weights are not here.
        images: what queries are made of.
        bench: sets of processes, rounds, block length, batch, scenarios.
        tick: told how many of how many sets of processes are done.
    """
    names = [str(engine.target) for engine in engines]
    watch = Watch()
    references = References(factory, images.feed("float32"), bench, engines)
    records: dict[str, _Record] = {name: _Record() for name in names}
    for start in range(bench.restarts):
        with contextlib.ExitStack() as stack:
            sessions = references.opened(stack)
            for name, engine in zip(names, engines, strict=True):
                worker = stack.enter_context(_opened(engine, images, bench))
                records[name].cold.append(worker.method("first_query", bench.batch))
                sessions[name] = worker, warmed_up(worker, bench.batch, bench.block_s)
            beside = [str(references.best(device)) for device in references.tried]
            _measure_set(start, sessions, names, beside, records, images, bench, watch)
            if start == bench.restarts - 1:
                for name, engine in zip(names, engines, strict=True):
                    _profile(sessions[name][0], engine, records[name], bench.batch)
        tick(start + 1, bench.restarts)
    watch.read()
    return {engine.target: _benchmark(records, engine, references, bench, watch) for engine in engines}


def blocks_of_engines(engines: Sequence[Engine], images: Images, bench: Bench, tick: Tick) -> list[list[Blocks]]:
    """The raw times of engines, of one target or several, in the same alternating rounds; by set of processes."""
    found: list[list[Blocks]] = [[] for _ in engines]
    for start in range(bench.restarts):
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(_opened(engine, images, bench)) for engine in engines]
            # By number: two engines may be of one target.
            sessions = {str(i): (each, warmed_up(each, bench.batch, bench.block_s)) for i, each in enumerate(workers)}
            blocks = _alternated(sessions, list(sessions), bench.batch, bench, start)
        for each, new in zip(found, blocks.values(), strict=True):
            each.append(new)
        tick(start + 1, bench.restarts)
    return found


def _opened(engine: Engine, images: Images, bench: Bench) -> contextlib.AbstractContextManager[Worker]:
    threads = bench.threads or available_threads()
    return engine.probe("measuring", images.feed(engine.input_type), threads, cuda_graph=bench.cuda_graph)


def _measure_set(
    start: int,
    warm: Mapping[str, WarmSession],
    engines: Sequence[str],
    beside: Sequence[str],
    records: dict[str, _Record],
    images: Images,
    bench: Bench,
    watch: Watch,
) -> None:
    """All that is measured with one set of processes; ``beside`` are the references that take part in the sweep."""
    with watch.span({session.process for session, _ in warm.values()}):
        for name, blocks in _alternated(warm, engines, bench.batch, bench, start).items():
            records.setdefault(name, _Record()).blocks.append(blocks)
        watch.read()  # while processors and GPU are still warm from work
        if "multi-stream" in bench.scenarios:
            asked = _rewarmed(warm, engines, MULTI_STREAM_BATCH, bench)
            for name, blocks in _alternated(asked, engines, MULTI_STREAM_BATCH, bench, start).items():
                records[name].multi_stream.append(blocks)
        once = bench.model_copy(update={"rounds": 1, "queries": None, "duration_s": None})
        for size in images.sweep:
            swept = _rewarmed(warm, [*beside, *engines], size, bench)
            for name, blocks in _alternated(swept, engines, size, once, start).items():
                rate = 1e3 * size / median(blocks.rounds[0].times_ms)
                records[name].rates.setdefault(size, []).append(rate)
    for name, (worker, _) in warm.items():
        records[name].peaks.append(worker.method("peak_memory"))


def _profile(session: Answering, engine: Engine, record: _Record, batch: int) -> None:
    """Time by part of the network. Profiling slows queries, so it comes last; a runtime may fail at it alone."""
    if not engine.parts:
        return
    try:
        record.parts = part_times(session.method("kernel_times", batch) or (), engine.parts)
    except DnexportError as exc:
        record.notes.append(f"there is no time by part of the network: {exc}")


def _rewarmed(
    warm: Mapping[str, WarmSession], names: Sequence[str], batch: int, bench: Bench
) -> dict[str, WarmSession]:
    """Some of the sessions, warmed up for another batch size."""
    return {name: (warm[name][0], warmed_up(warm[name][0], batch, bench.block_s)) for name in names}


def _alternated(
    warm: Mapping[str, WarmSession], engines: Sequence[str], batch: int, bench: Bench, start: int
) -> dict[str, Blocks]:
    judged = [index for index, name in enumerate(warm) if name in engines]
    workers, before = zip(*warm.values(), strict=True)
    enough, backwards = _enough(bench, judged), start % 2 == 1
    blocks = alternate(workers, before, batch=batch, block_s=bench.block_s, enough=enough, backwards=backwards)
    return dict(zip(warm, blocks, strict=True))


def _enough(bench: Bench, judged: Sequence[int]) -> Callable[[int, Sequence[int]], bool]:
    """Whether one set of processes has had its share of rounds, time and, of the sessions ``judged``, queries."""
    began = time.monotonic()
    queries, seconds = (bench.queries or 0) / bench.restarts, (bench.duration_s or 0.0) / bench.restarts

    def enough(rounds: int, measured: Sequence[int]) -> bool:
        return (
            rounds >= bench.rounds
            and all(measured[index] >= queries for index in judged)
            and time.monotonic() - began >= seconds
        )

    return enough


def _benchmark(
    records: Mapping[str, _Record], engine: Engine, references: References, bench: Bench, watch: Watch
) -> Benchmark:
    record, device = records[str(engine.target)], _device(engine)
    kept = references.kept(device)
    threads = bench.threads or available_threads()
    latency = functools.partial(latency_from_blocks, threads=threads)
    peaks = [peak for peak in record.peaks if peak is not None]
    speedups, notes = [], list(record.notes)
    notes += [f"PyTorch {form} took no part: {why}" for form, why in references.failed.items() if form.device == device]
    for form in kept:
        ratio, note = _speedup(form, records[str(form)], record)
        speedups.append(ratio)
        notes += [note] if note else []
    beside = {str(form): records[str(form)] for form in kept}
    best = records[str(kept[-1])] if kept else None
    queries = sum(blocks.queries for blocks in record.blocks)
    quantiles = [("p90", 0.90, queries), ("p99", 0.99, queries)]
    if record.multi_stream:
        eights = sum(blocks.queries for blocks in record.multi_stream)
        quantiles.append((f"p99 of queries of {MULTI_STREAM_BATCH}", 0.99, eights))
    return Benchmark(
        latency=latency(record.blocks, batch=bench.batch),
        device=device_times_from_blocks(record.blocks),
        references=tuple(
            Reference(
                form=str(form),
                latency=latency_from_blocks(
                    records[str(form)].blocks, batch=bench.batch, threads=1 if form.single else threads
                ),
            )
            for form in kept
        ),
        forms_tried={str(form): ms for form, ms in references.tried.get(device, {}).items()},
        over_eager=speedups[0] if kept else None,
        over_best=speedups[-1] if kept else None,
        multi_stream=latency(record.multi_stream, batch=MULTI_STREAM_BATCH) if record.multi_stream else None,
        offline=tuple(_point(size, rates, best) for size, rates in record.rates.items()),
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
        notes=(*notes, *_weaknesses(record, beside, bench, quantiles), *_disturbances(records, watch)),
    )


def _device(engine: Engine) -> Device:
    return "cuda" if engine.target.device == "cuda" else "cpu"


def _speedup(form: Form, reference: _Record, engine: _Record) -> tuple[Ratio | None, str]:
    """The ratio; or None, where blocks alone contradict it, and the note that says so."""
    ratio, alone = (between(reference.blocks, engine.blocks) for between in (ratio_from_blocks, ratio_alone))
    apart = disagreement(alone, ratio)
    if apart is None:
        return ratio, ""
    return None, (
        f"the speed-up over PyTorch {form} is withheld: it is {ratio} in alternating blocks and {alone} in blocks"
        f" alone, {apart:.0%} apart, so the sessions disturb each other"
    )


def _point(size: int, rates: Sequence[float], best: _Record | None) -> BatchPoint:
    value, low, high = ratio_interval([(rate,) for rate in rates])
    reference = ratio_interval([(rate,) for rate in best.rates[size]])[0] if best else None
    return BatchPoint(batch=size, images_per_second=value, low=low, high=high, reference=reference)


def _weaknesses(
    engine: _Record, references: Mapping[str, _Record], bench: Bench, quantiles: Sequence[tuple[str, float, int]]
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


def _disturbances(records: Mapping[str, _Record], watch: Watch) -> list[str]:
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
