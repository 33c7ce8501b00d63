"""Latency of engines beside PyTorch: eager FP32, and the best of its forms."""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from dnexport.data.images import Feed, PixelPart, feed_from_pixels
from dnexport.deploy.benchmark import Collected, Refused, benchmark_from_records, float_name
from dnexport.deploy.engine import Engine
from dnexport.deploy.references import References, WarmSession
from dnexport.errors import DnexportError, WorkerCrashed
from dnexport.measure.conditions import Watch
from dnexport.measure.latency import (
    Answering,
    Blocks,
    alternate,
    warmed_up,
)
from dnexport.measure.parts import part_times
from dnexport.measure.statistics import median
from dnexport.runtimes.arrays import whole_batches
from dnexport.runtimes.isolate import Worker
from dnexport.spec.latency import Benchmark
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.profile import Profile
from dnexport.spec.recipe import MULTI_STREAM_BATCH, Bench
from dnexport.spec.target import Target

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


def measure_engines(
    engines: Sequence[Engine],
    factory: Callable[[], Any] | None,
    images: Images,
    bench: Bench,
    tick: Tick,
    floats: Sequence[Engine] = (),
) -> dict[Target, Benchmark]:
    """Measure engines and the PyTorch references in the same alternating rounds.

    Args:
        engines: to be measured.
        factory: makes the PyTorch module in a worker; None where PyTorch or the weights are not here.
        images: what queries are made of.
        bench: sets of processes, rounds, block length, batch, scenarios.
        tick: told how many of how many sets of processes are done.
        floats: the float engines of INT8 engines' targets, which stand beside them.
    """
    names = [str(engine.target) for engine in engines]
    watch = Watch()
    references = References(factory, images.feed("float32"), bench, engines)
    records: dict[str, Collected] = {name: Collected() for name in names}
    for start in range(bench.restarts):
        with contextlib.ExitStack() as stack:
            sessions = references.opened(stack)
            for name, engine in zip(names, engines, strict=True):
                worker = stack.enter_context(_opened(engine, images, bench))
                records[name].cold.append(worker.method("first_query", bench.batch))
                sessions[name] = worker, warmed_up(worker, bench.batch, bench.block_s)
            for engine in floats:
                worker = stack.enter_context(_opened(engine, images, bench))
                sessions[float_name(engine.target)] = worker, warmed_up(worker, bench.batch, bench.block_s)
            beside = [str(form) for device in references.tried for form in references.swept(device)]
            _measure_set(start, sessions, names, beside, records, images, bench, watch)
            if start == bench.restarts - 1:
                for name, engine in zip(names, engines, strict=True):
                    _profile(sessions[name][0], engine, records[name], bench.batch)
        tick(start + 1, bench.restarts)
    watch.read()
    return {engine.target: benchmark_from_records(records, engine, references, bench, watch) for engine in engines}


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
    return engine.probe(
        "measuring",
        images.feed(engine.input_type),
        bench.threads,
        cuda_graph=bench.cuda_graph,
        batch=bench.batch,
        parked=True,
    )


def _measure_set(
    start: int,
    warm: Mapping[str, WarmSession],
    engines: Sequence[str],
    beside: Sequence[str],
    records: dict[str, Collected],
    images: Images,
    bench: Bench,
    watch: Watch,
) -> None:
    """All that is measured with one set of processes; ``beside`` are the references that take part in the sweep."""

    def measured(sessions: Mapping[str, WarmSession], batch: int, protocol: Bench) -> dict[str, Blocks]:
        with watch.span({session.process for session, _ in sessions.values()}):
            return _alternated(sessions, engines, batch, protocol, start)

    for name, blocks in measured(warm, bench.batch, bench).items():
        records.setdefault(name, Collected()).blocks.append(blocks)
    watch.read()  # while processors and GPU are still warm from work
    for name in engines:  # before other batch sizes add to it
        records[name].peaks.append(warm[name][0].method("peak_memory"))
    if "multi-stream" in bench.scenarios:
        asked = _rewarmed(warm, engines, MULTI_STREAM_BATCH, bench)
        for name, blocks in measured(asked, MULTI_STREAM_BATCH, bench).items():
            records[name].multi_stream.append(blocks)
    once = bench.model_copy(update={"rounds": 1, "queries": None, "duration_s": None})
    references = {name: warm[name] for name in beside}
    for size in images.sweep:
        references = _able(references, records, size, bench)
        for name, blocks in measured({**references, **_rewarmed(warm, engines, size, bench)}, size, once).items():
            rate = 1e3 * size / median(blocks.rounds[0].times_ms)
            records[name].rates.setdefault(size, []).append(rate)


def _able(
    references: Mapping[str, WarmSession], records: Mapping[str, Collected], batch: int, bench: Bench
) -> dict[str, WarmSession]:
    """Those that take queries of that size, warmed up; one that runs out of memory takes no part from there on."""
    able: dict[str, WarmSession] = {}
    gone: set[int] = set()
    for name, (session, _) in references.items():
        refused = records[name].refused
        if session.process in gone or (refused is not None and refused.batch <= batch):
            continue
        try:
            able |= _rewarmed(references, [name], batch, bench)
        except DnexportError as exc:
            records[name].refused = Refused(batch, str(exc))
            gone |= {session.process} if isinstance(exc, WorkerCrashed) else set()
    return {name: warm for name, warm in able.items() if warm[0].process not in gone}


def _profile(session: Answering, engine: Engine, record: Collected, batch: int) -> None:
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
