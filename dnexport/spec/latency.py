"""How fast an engine answers, as nouns: raw samples, unit, summary. Nothing here measures; `measure` does."""

import itertools
from typing import Literal

from pydantic import Field

from dnexport.spec.record import Record

Scenario = Literal["multi-stream", "offline"]


class Latency(Record):
    """The time of one query end to end, as the caller's wall clock sees it.

    Attributes:
        batch: images a query.
        threads: of the runtime.
        samples_ms: every measured query, in order; no outlier is removed.
        sets: how many of them each set of processes has.
        p50_ms: median.
        p90_ms: 90th percentile; None where the queries are too few to bound it (`measure.statistics`).
        p99_ms: 99th percentile; None likewise.
        p90_bound_ms: below which the 90th percentile lies with 99 % confidence; None likewise.
        p99_bound_ms: likewise of the 99th.
        images_per_second: images of all measured queries by the sum of their times, one query at a time.
        warm_up_queries: queries before the first measured one, of all sets of processes, not in the samples.
    """

    batch: int
    threads: int
    samples_ms: tuple[float, ...]
    sets: tuple[int, ...]
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    p90_bound_ms: float | None = None
    p99_bound_ms: float | None = None
    images_per_second: float
    warm_up_queries: int

    @property
    def samples_by_set(self) -> list[tuple[float, ...]]:
        """The queries of each set of processes, in milliseconds."""
        ends = list(itertools.accumulate(self.sets))
        return [self.samples_ms[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class DeviceTimes(Record):
    """Where the time of a query goes, as the device's own events tell; medians, but for the samples.

    Attributes:
        enqueue_ms: the host's, to launch it.
        h2d_ms: the input's way to the device.
        compute_ms: on the device: latency in its other meaning, without transfers.
        d2h_ms: the output's way back.
        compute_samples_ms: of every measured query.
        compute_p99_ms: None where the queries are too few to bound it.
    """

    enqueue_ms: float
    h2d_ms: float
    compute_ms: float
    d2h_ms: float
    compute_samples_ms: tuple[float, ...]
    compute_p99_ms: float | None


class Ratio(Record):
    """How many times faster than a reference, over several sets of processes.

    Attributes:
        value: geometric mean over the sets of the median of their rounds.
        low: lower end of its 95 % interval (`measure.statistics.ratio_interval`); None where there is but one set.
        high: upper end.
        starts: by set of processes, the ratio of each round: reference median / engine median.
    """

    value: float
    low: float | None
    high: float | None
    starts: tuple[tuple[float, ...], ...]

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f}× (no interval from one start)"
        return f"{self.value:.2f}× ({self.low:.2f} to {self.high:.2f})"


class Reference(Record):
    """A PyTorch form that latency is compared with.

    Attributes:
        form: ``eager fp32``, ``channels-last bf16``, …
        latency: measured in the same rounds as the engine's.
    """

    form: str
    latency: Latency


class BatchPoint(Record):
    """Throughput at one batch size.

    Attributes:
        batch: images a query.
        images_per_second: geometric mean over the sets of processes.
        low: lower end of its 95 % interval; None where there is but one set.
        high: upper end.
        reference: of PyTorch's best form in the same sets; None where there is none.
    """

    batch: int
    images_per_second: float
    low: float | None
    high: float | None
    reference: float | None = None


class ColdStart(Record):
    """From nothing to the first answer; medians over the starts.

    Attributes:
        open_ms: importing the runtime and loading the engine, in a fresh process.
        first_query_ms: the first query after that.
        starts: how many.
    """

    open_ms: float
    first_query_ms: float
    starts: int


class Conditions(Record):
    """What the machine was doing at one moment of a measurement; None where it does not tell.

    Attributes:
        at_s: seconds since the measurement began.
        load_average: processes that wanted a processor, over the last minute.
        cpu_mhz: mean clock of the processors.
        gpu_mhz: clock of the GPU's multiprocessors.
        gpu_watts: power drawn.
        gpu_celsius: temperature.
        gpu_throttled: why its clock is held down, in NVML's words.
    """

    at_s: float
    load_average: float | None = None
    cpu_mhz: float | None = None
    gpu_mhz: float | None = None
    gpu_watts: float | None = None
    gpu_celsius: float | None = None
    gpu_throttled: tuple[str, ...] = ()


class PartTime(Record):
    """What one part of the network, a dense block or what lies between two, takes of a query.

    Attributes:
        part: ``stem``, ``block 1``, ``transition 1``, …, ``head``; ``other`` where no name tells (`measure.parts`).
        share: of the time of all kernels.
        ms: in the runtime's own profile of a query, which profiling may slow: the median of each kernel, summed.
        kernels: how many.
        macs: multiply-adds an image; None where they are not known.
        bytes: of the activations and weights that its convolutions read and write, an image; None likewise.
        bound: the side of the roofline (`measure.parts`): whether arithmetic or memory limits it; None likewise.
    """

    part: str
    share: float
    ms: float
    kernels: int
    macs: int | None = None
    bytes: int | None = None
    bound: Literal["compute", "memory"] | None = None


class Benchmark(Record):
    """Latency of one engine beside the references of the same run.

    Attributes:
        latency: of the engine.
        device: where its time goes; None where the runtime has no events of its own, and one wall clock tells all.
        references: the PyTorch forms that were measured in full; eager FP32 first.
        forms_tried: median of a short screening of each PyTorch form, in milliseconds.
        over_eager: speed-up over eager FP32; None where it is withheld, and ``notes`` say why.
        over_best: speed-up over the best PyTorch form, the headline; None likewise.
        float_engine: of an INT8 engine, the float engine of the same runtime, measured in the same rounds; ``form`` is
            its precision. None for other engines, and where the float graph is not at hand.
        over_float: how many times faster the INT8 engine is than that one.
        multi_stream: MLPerf's scenario: queries of eight images, judged by p99.
        offline: MLPerf's scenario: throughput over a sweep of batch sizes.
        cold_start: from nothing to the first answer.
        peak_memory_bytes: the most that the process with the session, Python included, held in memory.
        install_bytes: the runtime's own packages on disk.
        millijoules_per_image: of the GPU, where NVML counts its energy.
        conditions: before, between the sets of processes, and after.
        others_share: of the processors' time, what went to other programs of this machine and to other machines of its
            host; None where the system does not tell.
        parts: time by dense block and what lies between; empty where the runtime or the graph does not tell.
        notes: what makes these numbers weak.
    """

    latency: Latency
    device: DeviceTimes | None = None
    references: tuple[Reference, ...] = ()
    forms_tried: dict[str, float] = Field(default_factory=dict)
    over_eager: Ratio | None = None
    over_best: Ratio | None = None
    float_engine: Reference | None = None
    over_float: Ratio | None = None
    multi_stream: Latency | None = None
    offline: tuple[BatchPoint, ...] = ()
    cold_start: ColdStart | None = None
    peak_memory_bytes: int | None = None
    install_bytes: int | None = None
    millijoules_per_image: float | None = None
    conditions: tuple[Conditions, ...] = ()
    others_share: float | None = None
    parts: tuple[PartTime, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def against_float(self) -> str | None:
        """Whether INT8 pays, in words; None where there is no float engine beside it."""
        if self.float_engine is None or self.over_float is None:
            return None
        ratio, other = self.over_float, self.float_engine.form.upper()
        if ratio.low is None or ratio.high is None or ratio.low <= 1 <= ratio.high:
            return f"INT8 is not measurably faster than {other} on the same runtime here ({ratio}): do not count on it"
        if ratio.high < 1:
            slower = f"{1 / ratio.value - 1:.0%}"
            return f"INT8 is {slower} slower than {other} on the same runtime here: do not use it for speed"
        return f"INT8 is {ratio} faster than {other} on the same runtime here"

    @property
    def best_reference(self) -> Reference:
        """The PyTorch form with the smallest median; there must be one."""
        return min(self.references, key=lambda reference: reference.latency.p50_ms)

    @property
    def best_batch(self) -> BatchPoint | None:
        """The batch size with the highest throughput."""
        return max(self.offline, key=lambda point: point.images_per_second, default=None)
