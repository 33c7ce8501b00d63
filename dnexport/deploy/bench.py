"""Latency of engines beside PyTorch: eager FP32, and the best of its forms."""

import contextlib
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from dnexport.data.images import Feed, PixelPart, feed_from_pixels
from dnexport.deploy.engine import Engine
from dnexport.measure.conditions import Watch
from dnexport.measure.environment import installed_bytes
from dnexport.measure.latency import (
    Blocks,
    Probe,
    WarmUp,
    alternate,
    device_times_from_blocks,
    disagreement,
    latency_from_blocks,
    millijoules_per_image,
    ratio_alone,
    ratio_from_blocks,
    warmed_up,
)
from dnexport.measure.statistics import fewest_samples, median, ratio_interval
from dnexport.runtimes.arrays import available_threads, whole_batches
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.registry import runtime_for
from dnexport.runtimes.torch_eager import EAGER, FORMS, TorchSession
from dnexport.spec.latency import BatchPoint, Benchmark, ColdStart, Latency, Ratio, Reference
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.profile import Profile
from dnexport.spec.recipe import MULTI_STREAM_BATCH, Bench
from dnexport.spec.target import Target

_RESTARTS = Bench().restarts
_OTHERS = 0.05
_DRIFT = 0.05

Tick = Callable[[int, int], None]
_Warm = tuple[Worker, WarmUp]


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
    """

    blocks: list[Blocks] = field(default_factory=list)
    multi_stream: list[Blocks] = field(default_factory=list)
    rates: dict[int, list[float]] = field(default_factory=dict)
    cold: list[tuple[float, float]] = field(default_factory=list)
    peaks: list[int | None] = field(default_factory=list)


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
    tried: dict[str, float] = {}
    records: dict[str, _Record] = {name: _Record() for name in names}
    for start in range(bench.restarts):
        with contextlib.ExitStack() as stack:
            workers = _references(factory, images, bench, tried, stack) if factory else {}
            for name, engine in zip(names, engines, strict=True):
                worker = stack.enter_context(_opened(engine, images, bench))
                records[name].cold.append(worker.method("first_query", bench.batch))
                workers[name] = worker, warmed_up(worker, bench.batch, bench.block_s)
            _measure_set(workers, names, records, images, bench, watch)
        watch.read()
        tick(start + 1, bench.restarts)
    best = _best(tried) if tried else None
    return {engine.target: _benchmark(records, engine, tried, best, bench, watch) for engine in engines}


def blocks_of_engines(engines: Sequence[Engine], images: Images, bench: Bench, tick: Tick) -> list[list[Blocks]]:
    """The raw times of engines, of one target or several, in the same alternating rounds; by set of processes."""
    found: list[list[Blocks]] = [[] for _ in engines]
    for start in range(bench.restarts):
        with contextlib.ExitStack() as stack:
            workers = [stack.enter_context(_opened(engine, images, bench)) for engine in engines]
            enough = _enough(bench, range(len(engines)))
            warm = [warmed_up(worker, bench.batch, bench.block_s) for worker in workers]
            blocks = alternate(workers, warm, batch=bench.batch, block_s=bench.block_s, enough=enough)
        for each, new in zip(found, blocks, strict=True):
            each.append(new)
        tick(start + 1, bench.restarts)
    return found


def _opened(engine: Engine, images: Images, bench: Bench) -> contextlib.AbstractContextManager[Worker]:
    threads = bench.threads or available_threads()
    return engine.probe("measuring", images.feed(engine.input_type), threads, cuda_graph=bench.cuda_graph)


def _references(
    factory: Callable[[], Any], images: Images, bench: Bench, tried: dict[str, float], stack: contextlib.ExitStack
) -> dict[str, _Warm]:
    """Eager FP32 and the best form, warmed up; the first time all forms are tried, and ``tried`` is filled."""
    forms = (FORMS if bench.compile else FORMS[:-1]) if not tried else (EAGER, _best(tried))
    threads, pixels = bench.threads or available_threads(), images.feed("float32")
    workers = {
        form: stack.enter_context(Worker(f"measuring PyTorch ({form})", threads=threads))
        for form in dict.fromkeys(forms)
    }

    def create(form: str) -> None:
        workers[form].create(Probe, functools.partial(TorchSession, factory, form, threads), pixels)

    # Starting PyTorch takes longest: all of its processes load at once. A process is started by this thread, since it
    # dies with the thread that started it.
    with ThreadPoolExecutor(len(workers)) as pool:
        list(pool.map(create, list(workers)))
    warm = {form: (worker, warmed_up(worker, bench.batch, bench.block_s)) for form, worker in workers.items()}
    if not tried:
        tried.update({form: median(before.last_ms) for form, (_, before) in warm.items()})
        for form in set(workers) - {EAGER, _best(tried)}:
            warm.pop(form)[0].close()
    return warm


def _best(tried: Mapping[str, float]) -> str:
    return min(tried, key=lambda form: tried[form])


def _measure_set(
    warm: Mapping[str, _Warm],
    engines: Sequence[str],
    records: dict[str, _Record],
    images: Images,
    bench: Bench,
    watch: Watch,
) -> None:
    """All that is measured with one set of processes."""
    with watch.span([worker.process for worker, _ in warm.values()]):
        for name, blocks in _alternated(warm, engines, bench.batch, bench).items():
            records.setdefault(name, _Record()).blocks.append(blocks)
        if "multi-stream" in bench.scenarios:
            asked = _rewarmed(warm, engines, MULTI_STREAM_BATCH, bench)
            for name, blocks in _alternated(asked, engines, MULTI_STREAM_BATCH, bench).items():
                records[name].multi_stream.append(blocks)
        best = [name for name in warm if name not in engines][-1:]
        once = bench.model_copy(update={"rounds": 1, "queries": None, "duration_s": None})
        for size in images.sweep:
            swept = _rewarmed(warm, [*best, *engines], size, bench)
            for name, blocks in _alternated(swept, engines, size, once).items():
                rate = 1e3 * size / median(blocks.rounds[0].times_ms)
                records[name].rates.setdefault(size, []).append(rate)
    for name, (worker, _) in warm.items():
        records[name].peaks.append(worker.method("peak_memory"))


def _rewarmed(warm: Mapping[str, _Warm], names: Sequence[str], batch: int, bench: Bench) -> dict[str, _Warm]:
    """Some of the sessions, warmed up for another batch size."""
    return {name: (warm[name][0], warmed_up(warm[name][0], batch, bench.block_s)) for name in names}


def _alternated(warm: Mapping[str, _Warm], engines: Sequence[str], batch: int, bench: Bench) -> dict[str, Blocks]:
    judged = [index for index, name in enumerate(warm) if name in engines]
    workers, before = zip(*warm.values(), strict=True)
    blocks = alternate(workers, before, batch=batch, block_s=bench.block_s, enough=_enough(bench, judged))
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
    records: Mapping[str, _Record],
    engine: Engine,
    tried: Mapping[str, float],
    best: str | None,
    bench: Bench,
    watch: Watch,
) -> Benchmark:
    record = records[str(engine.target)]
    threads = bench.threads or available_threads()
    latency = functools.partial(latency_from_blocks, threads=threads)
    peaks = [peak for peak in record.peaks if peak is not None]
    notes: list[str] = []
    return Benchmark(
        latency=(own := latency(record.blocks, batch=bench.batch)),
        device=device_times_from_blocks(record.blocks),
        references=tuple(
            Reference(form=form, latency=latency(records[form].blocks, batch=bench.batch))
            for form in dict.fromkeys((EAGER, best))
            if form is not None and form in tried
        ),
        forms_tried=dict(tried),
        over_eager=_speedup(EAGER, records, record, notes) if tried else None,
        over_best=_speedup(best, records, record, notes if best != EAGER else []) if best else None,
        multi_stream=latency(record.multi_stream, batch=MULTI_STREAM_BATCH) if record.multi_stream else None,
        offline=tuple(_point(size, rates, records[best] if best else None) for size, rates in record.rates.items()),
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
        notes=(*notes, *_weaknesses(own, records, record, bench, bool(tried)), *_disturbances(records, watch)),
    )


def _speedup(form: str, records: Mapping[str, _Record], engine: _Record, notes: list[str]) -> Ratio | None:
    """The ratio, or None and a note where blocks alone contradict it."""
    reference = records[form].blocks
    ratio, alone = ratio_from_blocks(reference, engine.blocks), ratio_alone(reference, engine.blocks)
    apart = disagreement(alone, ratio)
    if apart is None:
        return ratio
    notes.append(
        f"the speed-up over PyTorch {form} is withheld: it is {ratio} in alternating blocks and {alone} in blocks"
        f" alone, {apart:.0%} apart, so the sessions disturb each other"
    )
    return None


def _point(size: int, rates: Sequence[float], best: _Record | None) -> BatchPoint:
    value, low, high = ratio_interval([(rate,) for rate in rates])
    reference = ratio_interval([(rate,) for rate in best.rates[size]])[0] if best else None
    return BatchPoint(batch=size, images_per_second=value, low=low, high=high, reference=reference)


def _weaknesses(
    latency: Latency, records: Mapping[str, _Record], engine: _Record, bench: Bench, with_reference: bool
) -> list[str]:
    notes = []
    queries = len(latency.samples_ms)
    for label, quantile in (("p90", 0.90), ("p99", 0.99)):
        if queries < (needed := fewest_samples(quantile)):
            notes.append(
                f"{label} is withheld: it needs {needed} queries, {queries} were measured;"
                f" 'dnexport bench --queries {needed}' measures them"
            )
    if unsteady := sum(not blocks.warm_up.steady for blocks in engine.blocks):
        notes.append(f"{unsteady} of {len(engine.blocks)} warm-ups ended before the engine was steady within 3 %")
    if not with_reference:
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
