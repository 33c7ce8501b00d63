"""Latency of several sessions, side by side.

Each session lives in another process, each engine in one of its own, and runs as its users run it. All processes but
the one that is answering are stopped (`runtimes.isolate`), so that idle threads of one do not slow another. They are
measured in alternating blocks: in each round every session answers one block of queries, so that a machine which slows
down slows all of them, and each round gives one ratio. The first queries after a switch are not counted: they meet cold
caches. No outlier is removed.

All of it is done several times with new processes, since where a process lies in memory moves its times as well, and
no number of rounds within one process shows that.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from dnexport.data.images import Fed
from dnexport.measure.statistics import median, percentile, ratio_interval, upper_bound
from dnexport.runtimes.arrays import LogitsPart, whole_batches
from dnexport.runtimes.contract import Executed, KernelTime, Phases, Session
from dnexport.runtimes.gpu import gpu_millijoules
from dnexport.spec.latency import DeviceTimes, Latency, Ratio

LEAST_QUERIES = 6
SWITCH_QUERIES = 2
# Between the speed-up of blocks alone and of blocks in alternation.
MOST_DISAGREEMENT = 0.05
_WARM_UP_BLOCKS = 6
_WARM_UP_S = 1.0
_STEADY = 0.03


class Block(NamedTuple):
    """Queries in a row.

    Attributes:
        times_ms: wall time of each query.
        phases: of each query, where the runtime has events of its own.
        millijoules: that the GPU took meanwhile; None where nothing counts them.
    """

    times_ms: tuple[float, ...]
    phases: tuple[Phases, ...] = ()
    millijoules: float | None = None


class WarmUp(NamedTuple):
    """What came before the first round.

    Attributes:
        queries: how many.
        last_ms: the times of the last block: the session alone, between no others.
        steady: its median was within 3 % of that of the block before.
    """

    queries: int
    last_ms: tuple[float, ...]
    steady: bool


class Probe:
    """A session in a worker, with the images it is asked about.

    Args:
        factory: opens the session.
        images: what blocks of queries take in turn; None where only logits are asked for.
        on_gpu: it works there, so that what the GPU takes is its own.
    """

    def __init__(self, factory: Callable[[], Session], images: Fed | None = None, on_gpu: bool = False) -> None:
        began = time.perf_counter()
        self._session = factory()
        self._open_ms = (time.perf_counter() - began) * 1e3
        self._images, self._on_gpu = images, on_gpu
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

    def first_query(self, batch: int) -> tuple[float, float]:
        """How long opening the session took, and how long its first query takes, in milliseconds."""
        began = time.perf_counter()
        self._session(self._query(batch))
        return self._open_ms, (time.perf_counter() - began) * 1e3

    def screened(self, batch: int, hopeless_ms: float) -> float:
        """Milliseconds of a query after a first one: the median of six, or of two longer than ``hopeless_ms``."""
        self._session(self._query(batch))
        times: list[float] = []
        while len(times) < LEAST_QUERIES and not (len(times) > 1 and min(times) > hopeless_ms):
            images, start = self._query(batch), time.perf_counter()
            self._session(images)
            times.append((time.perf_counter() - start) * 1e3)
        return median(times)

    def warm_up(self, batch: int, block_s: float) -> WarmUp:
        """Query until two blocks in a row have medians within 3 %, or for six blocks or a second; two at the least."""
        queries, began = 0, time.perf_counter()
        last: float | None = None
        for _ in range(_WARM_UP_BLOCKS):
            times = self.block(batch, block_s, 0).times_ms
            queries += len(times)
            now = median(times)
            if last is not None and abs(now - last) <= _STEADY * last:
                return WarmUp(queries, times, True)
            if last is not None and time.perf_counter() - began > _WARM_UP_S:
                break
            last = now
        return WarmUp(queries, times, False)

    def block(self, batch: int, block_s: float, uncounted: int = SWITCH_QUERIES) -> Block:
        """Queries for at least ``block_s`` seconds and `LEAST_QUERIES`."""
        for _ in range(uncounted):
            self._session(self._query(batch))
        times: list[float] = []
        phases: list[Phases] = []
        energy = gpu_millijoules() if self._on_gpu else None
        end = time.perf_counter() + block_s
        while len(times) < LEAST_QUERIES or time.perf_counter() < end:
            images = self._query(batch)
            start = time.perf_counter()
            self._session(images)
            times.append((time.perf_counter() - start) * 1e3)
            if (told := self._session.phases()) is not None:
                phases.append(told)
        after = gpu_millijoules() if self._on_gpu else None
        return Block(tuple(times), tuple(phases), None if energy is None or after is None else after - energy)

    def kernel_times(self, batch: int) -> tuple[KernelTime, ...] | None:
        """The kernels of a query; None where the runtime does not time them."""
        return self._session.kernel_times(self._query(batch))

    def peak_memory(self) -> int | None:
        """The most bytes that this process has held in memory; None where the system does not tell."""
        status = Path("/proc/self/status")  # not getrusage, whose maximum begins with the parent's
        if not status.exists():
            return None
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM:")), None)
        return int(line.split()[1]) * 1024 if line else None

    def _query(self, batch: int) -> Fed:
        assert self._images is not None
        if self._next + batch > len(self._images):
            self._next = 0
        self._next += batch
        return self._images[self._next - batch : self._next]


@runtime_checkable
class Answering(Protocol):
    """A `Probe` in another process: in a worker of its own, or one of several in a worker."""

    @property
    def process(self) -> int:
        """Its number."""

    def method(self, name: str, *args: Any) -> Any:
        """Call a method of the probe."""


@dataclass(frozen=True)
class Blocks:
    """What one session did in one set of processes.

    Attributes:
        rounds: a block each.
        warm_up: before the first.
    """

    rounds: tuple[Block, ...]
    warm_up: WarmUp = field(default=WarmUp(0, (), True))

    @property
    def queries(self) -> int:
        """That were measured."""
        return sum(len(block.times_ms) for block in self.rounds)


def warmed_up(session: Answering, batch: int, block_s: float) -> WarmUp:
    """`Probe.warm_up` of a session in another process."""
    return WarmUp(*session.method("warm_up", batch, block_s))


def alternate(
    sessions: Sequence[Answering],
    warm: Sequence[WarmUp],
    *,
    batch: int,
    block_s: float,
    enough: Callable[[int, Sequence[int]], bool],
    backwards: bool = False,
) -> list[Blocks]:
    """Measure sessions in alternating blocks.

    Args:
        sessions: a `Probe` each.
        warm: what came before, of each.
        batch: images a query.
        block_s: least length of a block, in seconds.
        enough: told after each round how many rounds there were, and how many queries of each session were measured.
        backwards: the first round is; every other set of processes should have it so.
    """
    blocks: list[list[Block]] = [[] for _ in sessions]
    done = 0
    while not done or not enough(done, [sum(len(b.times_ms) for b in each) for each in blocks]):
        # Every other round runs backwards, so that no session always follows the same neighbour.
        order = range(len(sessions)) if done % 2 == backwards else reversed(range(len(sessions)))
        for index in order:
            blocks[index].append(Block(*sessions[index].method("block", batch, block_s)))
        done += 1
    return [Blocks(tuple(each), before) for each, before in zip(blocks, warm, strict=True)]


def latency_from_blocks(sets: Sequence[Blocks], *, batch: int, threads: int) -> Latency:
    """All rounds of one session, in all sets of processes, as one record."""
    samples = tuple(ms for each in sets for block in each.rounds for ms in block.times_ms)
    return Latency(
        batch=batch,
        threads=threads,
        samples_ms=samples,
        sets=tuple(each.queries for each in sets),
        p50_ms=median(samples),
        p90_ms=percentile(samples, 0.90),
        p99_ms=percentile(samples, 0.99),
        p90_bound_ms=upper_bound(samples, 0.90),
        p99_bound_ms=upper_bound(samples, 0.99),
        images_per_second=batch * len(samples) / (sum(samples) / 1e3),
        warm_up_queries=sum(each.warm_up.queries for each in sets),
    )


def device_times_from_blocks(sets: Sequence[Blocks]) -> DeviceTimes | None:
    """Where the time went; None where the runtime has no events of its own."""
    phases = [phase for each in sets for block in each.rounds for phase in block.phases]
    if not phases:
        return None
    compute = tuple(phase.compute_ms for phase in phases)
    return DeviceTimes(
        enqueue_ms=median([phase.enqueue_ms for phase in phases]),
        h2d_ms=median([phase.h2d_ms for phase in phases]),
        compute_ms=median(compute),
        d2h_ms=median([phase.d2h_ms for phase in phases]),
        compute_samples_ms=compute,
        compute_p99_ms=percentile(compute, 0.99),
    )


def millijoules_per_image(sets: Sequence[Blocks], batch: int) -> float | None:
    """What the GPU took during the blocks, switches and other queries not counted; None where nothing counts it."""
    blocks = [block for each in sets for block in each.rounds]
    if not blocks or any(block.millijoules is None for block in blocks):
        return None
    total = sum(block.millijoules or 0.0 for block in blocks)
    return total / (batch * sum(len(block.times_ms) for block in blocks)) if total > 0 else None


def ratio_from_blocks(reference: Sequence[Blocks], engine: Sequence[Blocks]) -> Ratio:
    """How many times faster the engine is, one ratio of medians a round; both by set of processes."""
    starts = tuple(
        tuple(median(r.times_ms) / median(e.times_ms) for r, e in zip(before.rounds, after.rounds, strict=True))
        for before, after in zip(reference, engine, strict=True)
    )
    value, low, high = ratio_interval(starts)
    return Ratio(value=value, low=low, high=high, starts=starts)


def ratio_alone(reference: Sequence[Blocks], engine: Sequence[Blocks]) -> Ratio:
    """The same ratio of the last warm-up blocks, which ran alone."""
    starts = tuple(
        (median(before.warm_up.last_ms) / median(after.warm_up.last_ms),)
        for before, after in zip(reference, engine, strict=True)
    )
    value, low, high = ratio_interval(starts)
    return Ratio(value=value, low=low, high=high, starts=starts)


def disagreement(alone: Ratio, alternating: Ratio) -> float | None:
    """By what share the two differ, where that is more than `MOST_DISAGREEMENT` and than the sets differ; else None."""
    apart = [(a[0] / median(b),) for a, b in zip(alone.starts, alternating.starts, strict=True)]
    value, low, high = ratio_interval(apart)
    if low is not None and high is not None and low <= 1 <= high:
        return None
    share = max(value, 1 / value) - 1
    return share if share > MOST_DISAGREEMENT else None
