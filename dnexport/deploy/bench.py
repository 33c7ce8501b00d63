"""Latency of engines beside PyTorch: eager FP32, and the best of its forms."""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnexport.data.images import InputBatch
from dnexport.deploy.compile import probe_worker, session_options
from dnexport.measure.latency import Blocks, Probe, alternate, ratio_from_blocks
from dnexport.measure.statistics import fewest_samples, median
from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.registry import open_session
from dnexport.runtimes.torch_eager import EAGER, FORMS, TorchSession
from dnexport.spec.metrics import Benchmark, Reference
from dnexport.spec.precision import Precision
from dnexport.spec.recipe import Bench
from dnexport.spec.target import Target


@dataclass(frozen=True)
class Engine:
    """An engine to be measured."""

    target: Target
    file: Path
    precision: Precision


def measure_engines(
    engines: Sequence[Engine],
    factory: Callable[[], Any] | None,
    images: InputBatch,
    bench: Bench,
    tick: Callable[[int, int], None],
) -> dict[Target, Benchmark]:
    """Measure engines and the PyTorch references in the same alternating rounds.

    Args:
        engines: to be measured.
        factory: makes the PyTorch module in a worker; None where PyTorch or the weights are not here.
        images: float32 inputs, taken in turn.
        bench: rounds, block length, batch.
        tick: told how many of how many rounds are done.
    """
    threads = available_threads()
    with contextlib.ExitStack() as stack:
        references, tried = _references(factory, images, bench, threads, stack) if factory else ({}, {})
        workers = [*references.values(), *(_worker(engine, images, threads, stack) for engine in engines)]
        blocks = _alternated(workers, bench, tick)
    names = [*references, *(str(engine.target) for engine in engines)]
    measured = dict(zip(names, blocks, strict=True))
    return {e.target: _benchmark(measured, str(e.target), list(references), tried, bench, threads) for e in engines}


def blocks_of_engines(
    engines: Sequence[Engine], images: InputBatch, bench: Bench, tick: Callable[[int, int], None]
) -> list[Blocks]:
    """The raw times of engines, of one target or several, in the same alternating rounds."""
    threads = available_threads()
    with contextlib.ExitStack() as stack:
        return _alternated([_worker(engine, images, threads, stack) for engine in engines], bench, tick)


def _worker(engine: Engine, images: InputBatch, threads: int, stack: contextlib.ExitStack) -> Worker:
    options = session_options(engine.precision, engine.target, threads)
    worker = stack.enter_context(probe_worker(f"measuring {engine.target}", engine.target, threads))
    worker.create(Probe, functools.partial(open_session, engine.file, engine.target, options), images)
    return worker


def _alternated(workers: Sequence[Worker], bench: Bench, tick: Callable[[int, int], None]) -> list[Blocks]:
    return alternate(workers, rounds=bench.rounds, batch=bench.batch, block_s=bench.block_s, tick=tick)


def _references(
    factory: Callable[[], Any], images: InputBatch, bench: Bench, threads: int, stack: contextlib.ExitStack
) -> tuple[dict[str, Worker], dict[str, float]]:
    """Workers of eager FP32 and of the best form, and the median of each form's trial."""
    workers: dict[str, Worker] = {}
    tried: dict[str, float] = {}
    for form in FORMS if bench.compile else FORMS[:-1]:
        worker = stack.enter_context(Worker(f"measuring PyTorch ({form})", threads=threads))
        worker.create(Probe, functools.partial(TorchSession, factory, form, threads), images)
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
