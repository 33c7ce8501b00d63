"""Latency of engines beside PyTorch: eager FP32, and the best of its forms."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

from dnexport.data.images import Feed
from dnexport.deploy.engine import Engine
from dnexport.measure.latency import Blocks, Probe, alternate, ratio_from_blocks
from dnexport.measure.statistics import fewest_samples, median
from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.torch_eager import EAGER, FORMS, TorchSession
from dnexport.spec.metrics import Benchmark, Reference
from dnexport.spec.recipe import Bench
from dnexport.spec.target import Target


def measure_engines(
    engines: Sequence[Engine],
    factory: Callable[[], Any] | None,
    images: Feed,
    bench: Bench,
    tick: Callable[[int, int], None],
) -> dict[Target, Benchmark]:
    """Measure engines and the PyTorch references in the same alternating rounds.

    Args:
        engines: to be measured.
        factory: makes the PyTorch module in a worker; None where PyTorch or the weights are not here.
        images: taken in turn.
        bench: rounds, block length, batch.
        tick: told how many of how many rounds are done.
    """
    threads = bench.threads or available_threads()
    with contextlib.ExitStack() as stack:
        references, tried = _references(factory, images, bench, threads, stack) if factory else ({}, {})
        workers = [*references.values(), *(_worker(engine, images, threads, stack) for engine in engines)]
        blocks = _alternated(workers, bench, tick)
    names = [*references, *(str(engine.target) for engine in engines)]
    measured = dict(zip(names, blocks, strict=True))
    return {e.target: _benchmark(measured, str(e.target), list(references), tried, bench, threads) for e in engines}


def blocks_of_engines(
    engines: Sequence[Engine], images: Feed, bench: Bench, tick: Callable[[int, int], None]
) -> list[Blocks]:
    """The raw times of engines, of one target or several, in the same alternating rounds."""
    threads = bench.threads or available_threads()
    with contextlib.ExitStack() as stack:
        return _alternated([_worker(engine, images, threads, stack) for engine in engines], bench, tick)


def _worker(engine: Engine, images: Feed, threads: int, stack: contextlib.ExitStack) -> Worker:
    return stack.enter_context(engine.probe("measuring", images(engine.input_type), threads))


def _alternated(workers: Sequence[Worker], bench: Bench, tick: Callable[[int, int], None]) -> list[Blocks]:
    return alternate(workers, rounds=bench.rounds, batch=bench.batch, block_s=bench.block_s, tick=tick)


def _references(
    factory: Callable[[], Any], images: Feed, bench: Bench, threads: int, stack: contextlib.ExitStack
) -> tuple[dict[str, Worker], dict[str, float]]:
    """Workers of eager FP32 and of the best form, and the median of each form's trial."""
    workers: dict[str, Worker] = {}
    tried: dict[str, float] = {}
    for form in FORMS if bench.compile else FORMS[:-1]:
        worker = stack.enter_context(Worker(f"measuring PyTorch ({form})", threads=threads))
        worker.create(Probe, functools.partial(TorchSession, factory, form, threads), images("float32"))
        worker.method("warm_up", bench.batch, bench.block_s)
        tried[form] = median(worker.method("block", bench.batch, bench.block_s))
        workers[form] = worker
        best = min(tried, key=lambda name: tried[name])
        for name in set(workers) - {EAGER, best}:
            workers.pop(name).close()
    return workers, tried


def _benchmark(
    measured: dict[str, Blocks],
    name: str,
    references: Sequence[str],
    tried: dict[str, float],
    bench: Bench,
    threads: int,
) -> Benchmark:
    best = min(tried, key=lambda form: tried[form]) if tried else None
    latency = measured[name].latency(batch=bench.batch, threads=threads)
    return Benchmark(
        latency=latency,
        references=tuple(
            Reference(form=form, latency=measured[form].latency(batch=bench.batch, threads=threads))
            for form in references
        ),
        forms_tried=tried,
        over_eager=ratio_from_blocks(measured[EAGER], measured[name]) if tried else None,
        over_best=ratio_from_blocks(measured[best], measured[name]) if best else None,
        notes=_notes(len(latency.samples_ms), bench, bool(tried)),
    )


def _notes(queries: int, bench: Bench, with_reference: bool) -> tuple[str, ...]:
    notes = []
    for label, quantile in (("p90", 0.90), ("p99", 0.99)):
        if queries < (needed := fewest_samples(quantile)):
            notes.append(f"{label} is withheld: it needs {needed} queries, {queries} were measured")
    if not with_reference:
        notes.append("no PyTorch reference here, so no speed-up")
    elif not bench.compile:
        notes.append("torch.compile was not among the PyTorch forms; 'dnexport bench --compile' adds it")
    return tuple(notes)
