"""What is measured, as nouns: raw samples, unit, summary. Nothing here measures; `measure` does."""

import re
from typing import Literal

from pydantic import Field

from dnexport.spec.budget import Judgement
from dnexport.spec.latency import Benchmark
from dnexport.spec.precision import Execution
from dnexport.spec.record import Record, digest_from_json


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


class Shown(Record):
    """An image that a reader should look at: its answer changed, or the engine is furthest from PyTorch on it.

    Attributes:
        index: among the compared images.
        label: None where unknown, and of multi-label networks.
        reference: the class that PyTorch names.
        engine: the class that the engine names.
        margin: PyTorch's probability of its first class less that of its second.
        max_abs_error: largest |Δlogit|.
        thumbnail: the network's input as a data URI of a JPEG or PNG; empty where it was not kept.
    """

    index: int
    label: int | None
    reference: int
    engine: int
    margin: float
    max_abs_error: float
    thumbnail: str = ""


class Accuracy(Record):
    """An engine against the PyTorch reference (agreement) and against labels (accuracy), on the same samples.

    Attributes:
        samples: images compared.
        labelled: images among them whose label is known; 0 makes the label metrics null, as one class does.
        top1: share of labelled images whose largest logit is the label's.
        top5: share of labelled images whose label is among the five largest logits.
        reference_top1: top-1 of the PyTorch reference on the same labelled images.
        lost: labelled images that the reference has right and the engine wrong.
        gained: labelled images that the reference has wrong and the engine right.
        agreement: share of all images on which both name the same class.
        max_abs_error: largest |Δlogit|.
        max_abs_logit: largest |logit| of the reference, the scale of that error.
        snr_db: centred signal-to-noise ratio of the logits in decibel (`measure.accuracy`); None when exact.
        centred: the images differ, so that there is a centred ratio; else, of one image or one answer to all, it is
            uncentred, good for gross errors only.
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
        shown: changed answers, the surest first, at most eight; where none changed, the images with the largest errors.
        waited_share: of the time it took, what the engine waited for decoded images; None where they were at hand.
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
    centred: bool = True
    auroc: tuple[float | None, ...] | None = None
    reference_auroc: tuple[float | None, ...] | None = None
    drop_interval: tuple[float, float] | None = None
    calibration_error: float | None = None
    reference_calibration_error: float | None = None
    divergence: float | None = None
    flipped_margin: float | None = None
    worst_classes: tuple[ClassDrop, ...] = ()
    shown: tuple[Shown, ...] = ()
    waited_share: float | None = None

    @property
    def one_class(self) -> bool:
        """Labels are known and there is no top-1: the network has one class, which it always names."""
        return self.labelled > 0 and self.top1 is None and self.divergence is not None

    @property
    def snr_text(self) -> str:
        """The ratio in words, and where it is none that compares with others."""
        return decibel_text(self.snr_db) + ("" if self.centred else " (not centred)")

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


class Product(Record):
    """A convolution or a matrix product.

    Attributes:
        names: of its node, and of the values that a runtime may write instead of its own result.
        macs: multiply-adds an image.
        bytes: that it reads and writes an image: activations, weights and result, in the types of the graph.
    """

    names: tuple[str, ...]
    macs: int
    bytes: int


class PartCensus(Record):
    """One part of the network in the graph: a dense block, or what lies between two.

    Attributes:
        part: ``stem``, ``block 1``, ``transition 1``, …, ``head``.
        nodes: names of its nodes.
        values: names of what they give, but for (de)quantizations; some runtimes name a kernel so.
        products: its convolutions and matrix products.
    """

    part: str
    nodes: tuple[str, ...]
    values: tuple[str, ...]
    products: tuple[Product, ...]

    @property
    def macs(self) -> int:
        """Multiply-adds an image of its products."""
        return sum(product.macs for product in self.products)

    @property
    def bytes(self) -> int:
        """That its products read and write an image."""
        return sum(product.bytes for product in self.products)


class Census(Record):
    """What an ONNX graph holds, counted by `graph.census`.

    Attributes:
        operators: node count by operator.
        conv_macs_by_precision: share of the convolutions' multiply-adds by their input type (``int8``: Q/DQ-fed).
        conv_macs: multiply-adds an image of each convolution, by its name.
        parts: of the network, in the order of the computation; empty where the graph shows none.
    """

    operators: dict[str, int]
    conv_macs_by_precision: dict[str, float]
    conv_macs: dict[str, int] = Field(default_factory=dict)
    parts: tuple[PartCensus, ...] = ()


class PrecisionProof(Record):
    """What is known of an engine's arithmetic, and from where.

    Attributes:
        source: the types of the network as the builder parsed it, the kernels in the runtime's own profile of a query,
            TensorRT's engine inspector, the types of a PyTorch module's parameters, or the null runtime, which proves
            nothing.
        conv_work: share of the convolutions' multiply-adds by type.
        reformats: kernels that only change a type or a layout; None where the source does not tell.
        statement: in words.
    """

    source: Literal["parsed network", "kernel profile", "engine inspector", "module", "null runtime"]
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
        measured_on: digest of the hardware that accuracy and latency are of (`Environment.hardware_digest`).
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
    measured_on: str | None = None
    built_with: dict[str, str] = Field(default_factory=dict)


class Environment(Record):
    """The machine a measurement was made on; None where the system does not tell.

    Attributes:
        system: kernel and its release.
        machine: the instruction set: ``x86_64``, ``aarch64``.
        cpu: model.
        cpu_features: instructions that matter here and that it has.
        cores: that this process may use.
        memory_bytes: of the machine.
        load_average: processes that wanted a processor, over the last minute.
        governor: of the processors' clock.
        gpu: name, compute capability and driver of the first GPU; empty where there is none.
        power_mode: of a Jetson, as ``nvpmodel`` names it.
        python: version.
        versions: of the packages that decide what is built and how fast it runs.
    """

    system: str
    machine: str
    cpu: str
    cpu_features: tuple[str, ...]
    cores: int
    memory_bytes: int | None
    load_average: float | None
    governor: str | None = None
    gpu: dict[str, str] = Field(default_factory=dict)
    power_mode: str | None = None
    python: str
    versions: dict[str, str]

    @property
    def hardware(self) -> tuple[object, ...]:
        """What makes it another machine: drivers, packages and load do not."""
        gpu = {name: value for name, value in self.gpu.items() if name != "driver"}
        return self.machine, self.cpu, self.cpu_features, self.cores, gpu, self.power_mode

    @property
    def hardware_digest(self) -> str:
        """Of `hardware`: equal on machines that measure alike."""
        return digest_from_json(self.hardware)

    @property
    def short_name(self) -> str:
        """The GPU where there is one, else the processor and its cores."""
        plain = re.sub(r"\((R|TM)\)| (CPU|Processor)\b| @.*", "", self.cpu)
        return self.gpu.get("gpu") or f"{plain}, {self.cores} cores"
