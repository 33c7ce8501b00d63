"""What is measured, as nouns: raw samples, unit, summary. Nothing here measures; `measure` does."""

from typing import Literal

from pydantic import Field

from dnexport.spec.budget import Judgement
from dnexport.spec.precision import Execution
from dnexport.spec.record import Record


def decibel_text(snr_db: float | None) -> str:
    """A signal-to-noise ratio in words; None is no noise at all."""
    return "exact" if snr_db is None else f"{snr_db:.1f} dB"


class ClassDrop(Record):
    """What became of the images of one class.

    Attributes:
        index: of the class.
        images: labelled with it.
        lost: that the reference has right and the engine wrong.
        gained: the other way round.
    """

    index: int
    images: int
    lost: int
    gained: int


class Accuracy(Record):
    """An engine against the PyTorch reference (agreement) and against labels (accuracy), on the same samples.

    Attributes:
        samples: images compared.
        labelled: images among them whose label is known; 0 makes the three label metrics null.
        top1: share of labelled images whose largest logit is the label's.
        top5: share of labelled images whose label is among the five largest logits.
        reference_top1: top-1 of the PyTorch reference on the same labelled images.
        lost: labelled images that the reference has right and the engine wrong.
        gained: labelled images that the reference has wrong and the engine right.
        agreement: share of all images on which both name the same class.
        max_abs_error: largest |Δlogit|.
        max_abs_logit: largest |logit| of the reference, the scale of that error.
        snr_db: centred signal-to-noise ratio of the logits in decibel (`measure.accuracy`); None when exact.
        auroc: of multi-label networks, by class, the area under the ROC curve (`measure.accuracy`); None for a class of
            which not both answers are known; None for all others.
        reference_auroc: of the PyTorch reference on the same images.
        drop_interval: 95 % score interval of the paired drop in top-1 (`measure.statistics`), in points.
        calibration_error: expected calibration error of the engine's softmax on labelled images (`measure.accuracy`).
        reference_calibration_error: of the reference's.
        divergence: mean Kullback-Leibler divergence of the engine's softmax from the reference's, in nats.
        flipped_margin: the reference's largest margin, the probability of its first class less that of its second, on
            an image whose answer changed: near 0 only ties fell the other way; None where no answer changed.
        worst_classes: with most losses beyond gains, at most five, worst first; classes without a loss are not named.
    """

    samples: int = Field(ge=1)
    labelled: int
    top1: float | None
    top5: float | None
    reference_top1: float | None
    lost: int | None
    gained: int | None
    agreement: float
    max_abs_error: float
    max_abs_logit: float
    snr_db: float | None
    auroc: tuple[float | None, ...] | None = None
    reference_auroc: tuple[float | None, ...] | None = None
    drop_interval: tuple[float, float] | None = None
    calibration_error: float | None = None
    reference_calibration_error: float | None = None
    divergence: float | None = None
    flipped_margin: float | None = None
    worst_classes: tuple[ClassDrop, ...] = ()

    @property
    def drop(self) -> float | None:
        """The loss of top-1 against the reference, in points of the labelled images; None without labels."""
        if self.lost is None or self.gained is None:
            return None
        return 100 * (self.lost - self.gained) / self.labelled

    @property
    def mean_auroc(self) -> tuple[float, float] | None:
        """The mean over the classes that have one, of the engine and of the reference."""
        pairs = [(a, r) for a, r in zip(self.auroc or (), self.reference_auroc or (), strict=True) if a is not None]
        if not pairs:
            return None
        return sum(a for a, _ in pairs) / len(pairs), sum(r or 0.0 for _, r in pairs) / len(pairs)


class Latency(Record):
    """The time of one query end to end, as the caller's wall clock sees it.

    Attributes:
        batch: images a query.
        threads: of the runtime.
        samples_ms: every measured query, in order; no outlier is removed.
        p50_ms: median.
        p90_ms: 90th percentile; None where the queries are too few to bound it (`measure.statistics`).
        p99_ms: 99th percentile; None likewise.
        p90_bound_ms: below which the 90th percentile lies with 99 % confidence; None likewise.
        p99_bound_ms: likewise of the 99th.
        images_per_second: images of all measured queries by the sum of their times, one query at a time.
        warm_up_queries: queries before the first measured one, not in the samples.
    """

    batch: int
    threads: int
    samples_ms: tuple[float, ...]
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    p90_bound_ms: float | None = None
    p99_bound_ms: float | None = None
    images_per_second: float
    warm_up_queries: int


class Ratio(Record):
    """How many times faster than a reference, from the medians of alternating blocks.

    Attributes:
        value: median over the rounds of (reference median / engine median).
        low: lower end of the distribution-free 95 % interval of that median; None below six rounds.
        high: upper end.
        rounds: alternations that entered.
    """

    value: float
    low: float | None
    high: float | None
    rounds: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.2f}× (no interval from {self.rounds} rounds)"
        return f"{self.value:.2f}× ({self.low:.2f} to {self.high:.2f})"


class Reference(Record):
    """A PyTorch form that latency is compared with.

    Attributes:
        form: ``eager fp32``, ``channels-last bf16``, …
        latency: measured in the same rounds as the engine's.
    """

    form: str
    latency: Latency


class Benchmark(Record):
    """Latency of one engine beside the references of the same run.

    Attributes:
        latency: of the engine.
        references: eager FP32 first; then the best form, if it is another.
        forms_tried: median of a short trial of each PyTorch form, in milliseconds; the best is the smallest.
        over_eager: speed-up over eager FP32.
        over_best: speed-up over the best PyTorch form, the headline.
        notes: what makes these numbers weak.
    """

    latency: Latency
    references: tuple[Reference, ...] = ()
    forms_tried: dict[str, float] = Field(default_factory=dict)
    over_eager: Ratio | None = None
    over_best: Ratio | None = None
    notes: tuple[str, ...] = ()


class CrossCheck(Record):
    """One INT8 graph on two runtimes: neither is trusted alone.

    Attributes:
        against: the other target.
        snr_db: of this engine's logits, with the other's as the signal; None when exact.
        other_snr_db: of the other runtime's logits against PyTorch; None when exact.
        floor_db: below which this engine must at least be as near to PyTorch as the other runtime, or the build fails.
    """

    against: str
    snr_db: float | None
    other_snr_db: float | None
    floor_db: float


class Census(Record):
    """What an ONNX graph holds, counted by `graph.census`.

    Attributes:
        operators: node count by operator.
        conv_macs_by_precision: share of the convolutions' multiply-adds by their input type (``int8``: Q/DQ-fed).
        conv_macs: multiply-adds an image of each convolution, by its name.
    """

    operators: dict[str, int]
    conv_macs_by_precision: dict[str, float]
    conv_macs: dict[str, int] = Field(default_factory=dict)


class PrecisionProof(Record):
    """What is known of an engine's arithmetic, and from where.

    Attributes:
        source: the types of the network as the builder parsed it, the kernels in the runtime's own profile of a query,
            TensorRT's engine inspector, or the types of a PyTorch module's parameters.
        conv_work: share of the convolutions' multiply-adds by type.
        reformats: kernels that only change a type or a layout; None where the source does not tell.
        statement: in words.
    """

    source: Literal["parsed network", "kernel profile", "engine inspector", "module"]
    conv_work: dict[str, float]
    reformats: int | None
    statement: str


class TargetReport(Record):
    """One target of a bundle: what was asked, what was built, what is executed, what was measured.

    Attributes:
        target: its string form.
        status: ``validated`` (compared with PyTorch), ``built``, ``prepared`` (lowered graph only) or ``failed``.
        companion: a local stand-in that ``auto`` adds so that the graph is validated and measured here.
        error: why it failed.
        file: the engine, relative to the bundle.
        bytes: its size.
        engine_digest: its SHA-256: accuracy and latency are of this very file.
        executed_precision: the arithmetic the runtime carries out; None where it has not run.
        proof: what is known of its precision, and from where.
        census: of the lowered graph.
        accuracy: of the engine, against PyTorch and labels.
        graph_accuracy: of the lowered graph on ONNX Runtime's CPU provider, where the engine itself cannot run here.
        cross_check: against another runtime, INT8 only.
        benchmark: latency.
        notes: what a reader should know.
        judgements: of the budgets, where there are any.
        built_with: versions of the packages that built the engine, and ``gpu``, ``capability`` and ``driver`` there.
    """

    target: str
    status: Literal["validated", "built", "prepared", "failed"]
    companion: bool = False
    error: str | None = None
    file: str | None = None
    bytes: int | None = None
    engine_digest: str | None = None
    executed_precision: Execution | None = None
    proof: PrecisionProof | None = None
    census: Census | None = None
    accuracy: Accuracy | None = None
    graph_accuracy: Accuracy | None = None
    cross_check: CrossCheck | None = None
    benchmark: Benchmark | None = None
    notes: tuple[str, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    built_with: dict[str, str] = Field(default_factory=dict)


class Environment(Record):
    """The machine a measurement was made on."""

    system: str
    machine: str
    cpu: str
    cpu_features: tuple[str, ...]
    cores: int
    memory_bytes: int | None
    load_average: float | None
    python: str
    versions: dict[str, str]
