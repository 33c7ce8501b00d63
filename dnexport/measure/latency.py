"""Latency of several sessions, side by side.

Each session lives in a worker process of its own and waits passively. They are measured in alternating blocks: in each
round every session answers one block of queries, so that a machine which slows down slows all of them, and each
round gives one ratio. The first queries after a switch are not counted: they meet cold caches. No outlier is removed.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dnexport.data.images import Fed
from dnexport.measure.statistics import median, median_interval, percentile, upper_bound
from dnexport.runtimes.arrays import LogitsPart, whole_batches
from dnexport.runtimes.contract import Executed, Session
from dnexport.runtimes.isolate import Worker
from dnexport.spec.metrics import Latency, Ratio

LEAST_QUERIES = 6
SWITCH_QUERIES = 2
_WARM_UP_BLOCKS = 6
_STEADY = 0.03


class Probe:
    """A session in a worker, with the images it is asked about.

    Args:
        factory: opens the session.
        images: what blocks of queries take in turn; None where only logits are asked for.
    """

    def __init__(self, factory: Callable[[], Session], images: Fed | None = None) -> None:
        self._session = factory()
        self._images = images
        self._next = 0

    def executed(self, macs: Mapping[str, int]) -> Executed:
        """What arithmetic the session carries out."""
        return self._session.executed(macs)

    def logits(self, images: Fed, batch: int, least: int = 1) -> list[LogitsPart]:
        """Answers for all images, ``batch`` at a time; the last query is smaller, or filled up to ``least``."""
        parts = [images[start : start + batch] for start in range(0, len(images), batch)]
        return [self._session(p if len(p) >= least else whole_batches(p, least))[: len(p)] for p in parts]

    def values(self, images: Fed) -> dict[str, np.ndarray]:
        """Every output of the engine for one batch."""
        return self._session.values(images)

    def warm_up(self, batch: int, block_s: float) -> int:
        """Query until two blocks in a row have medians within 3 %, or six blocks; the number of queries."""
        queries = 0
        last: float | None = None
        for _ in range(_WARM_UP_BLOCKS):
            times = self.block(batch, block_s, 0)
            queries += len(times)
            now = median(times)
            if last is not None and abs(now - last) <= _STEADY * last:
                break
            last = now
        return queries

    def block(self, batch: int, block_s: float, uncounted: int = SWITCH_QUERIES) -> list[float]:
        """Wall time of each query in milliseconds, for at least ``block_s`` and `LEAST_QUERIES`."""
        for _ in range(uncounted):
            self._session(self._query(batch))
        times: list[float] = []
        end = time.perf_counter() + block_s
        while len(times) < LEAST_QUERIES or time.perf_counter() < end:
            images = self._query(batch)
            start = time.perf_counter()
            self._session(images)
            times.append((time.perf_counter() - start) * 1e3)
        return times

    def _query(self, batch: int) -> Fed:
        assert self._images is not None
        if self._next + batch > len(self._images):
            self._next = 0
        self._next += batch
        return self._images[self._next - batch : self._next]


@dataclass(frozen=True)
class Blocks:
    """The raw times of one session.

    Attributes:
        rounds: per round, the milliseconds of each query.
        warm_up_queries: before the first round.
    """

    rounds: tuple[tuple[float, ...], ...]
    warm_up_queries: int

    def latency(self, *, batch: int, threads: int) -> Latency:
        """All rounds as one record."""
        samples = tuple(ms for block in self.rounds for ms in block)
        return Latency(
            batch=batch,
            threads=threads,
            samples_ms=samples,
            p50_ms=median(samples),
            p90_ms=percentile(samples, 0.90),
            p99_ms=percentile(samples, 0.99),
            p90_bound_ms=upper_bound(samples, 0.90),
            p99_bound_ms=upper_bound(samples, 0.99),
            images_per_second=batch * len(samples) / (sum(samples) / 1e3),
            warm_up_queries=self.warm_up_queries,
        )


def alternate(
    workers: Sequence[Worker], *, rounds: int, batch: int, block_s: float, tick: Callable[[int, int], None]
) -> list[Blocks]:
    """Measure sessions in alternating blocks.

    Args:
        workers: each holds a `Probe`.
        rounds: blocks of each.
        batch: images a query.
        block_s: least length of a block, in seconds.
        tick: told how many of how many blocks are done.
    """
    warm = [int(worker.method("warm_up", batch, block_s)) for worker in workers]
    times: list[list[tuple[float, ...]]] = [[] for _ in workers]
    for done in range(rounds):
        # Every other round runs backwards, so that no session always follows the same neighbour.
        order = range(len(workers)) if done % 2 == 0 else reversed(range(len(workers)))
        for index in order:
            times[index].append(tuple(workers[index].method("block", batch, block_s)))
        tick(done + 1, rounds)
    return [Blocks(tuple(blocks), queries) for blocks, queries in zip(times, warm, strict=True)]


def ratio_from_blocks(reference: Blocks, engine: Blocks) -> Ratio:
    """How many times faster the engine is: one ratio of medians a round, then their median and its interval."""
    ratios = [median(r) / median(e) for r, e in zip(reference.rounds, engine.rounds, strict=True)]
    low, high = median_interval(ratios) or (None, None)
    return Ratio(value=median(ratios), low=low, high=high, rounds=len(ratios))
