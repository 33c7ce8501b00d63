"""Calibration: which images, what was seen of each tensor, and the scale that follows."""

from typing import Literal

from pydantic import Field, model_validator

from dnexport.spec.latency import Ratio
from dnexport.spec.metrics import decibel_text
from dnexport.spec.record import Record

ObserverName = Literal["minmax", "percentile", "entropy", "mse"]

Centring = Literal["all", "pointwise", "none"]

Placement = Literal["activation", "state"]

INT8_MAX = 127


class CalibrationSet(Record):
    """Which images calibrate: a recipe, so that the same set can be drawn again.

    Attributes:
        data: ``digits``, a folder, or ``synthetic``; None takes the build's own training part.
        count: number of images, drawn evenly over the classes.
        seed: of the draw.
        observer: how ranges are derived from what is seen (`calibrate.observers`).
        percentile: of ``percentile``: this share of the values, in per cent, is not clipped.
    """

    data: str | None = None
    count: int = Field(default=256, ge=1)
    seed: int = Field(default=0, ge=0)
    observer: ObserverName = "minmax"
    percentile: float = Field(default=99.99, gt=50, le=100)


class Quantization(Record):
    """How the network is quantized, given its ranges; the effect of each is in docs/quantization.md.

    Attributes:
        placement: what is held in int8: what convolutions read (``activation``), or also what a dense block
            concatenates (``state``); ``auto`` builds both, measures both and keeps the faster that meets the budget.
        transitions: what the 1×1 convolutions behind an average pooling run in: one to five per cent of the work,
            and their errors reach a whole block. None: int8 in placement ``state``, else float.
        pooling: what the transitions pool in placement ``state``, whatever their convolutions run in.
        pixel_input: quantize the input on the grid of its pixels (`graph.pixel_input`); needs centring.
        centre: subtract the middle of its range from what convolutions read (`graph.centre_activations`): of ``all``,
            of those without padding (``pointwise``: the 1×1), or of ``none``.
        rounding: of the weights: ``gptq`` lets the errors of a sum compensate each other (`calibrate.rounding`),
            ``nearest`` does not.
        correct_bias: put the mean error of each convolution into its bias (`graph.correct_bias`).
        min_snr: least centred SNR of the logits on the tuning images, in decibel; the layers that cost most go back to
            float until it holds (`calibrate.sensitivity`).
        max_drop: likewise, the greatest loss of top-1 on them, in points.
        tuning: number of tuning images, drawn from the training part behind those that calibrate.
        plan: a file that says which layers stay in float, as a build with a budget leaves it in its bundle.
    """

    placement: Literal["activation", "state", "auto"] = "activation"
    transitions: Literal["int8", "float"] | None = None
    pooling: Literal["int8", "float"] = "int8"
    pixel_input: bool = True
    centre: Centring = "all"
    rounding: Literal["gptq", "nearest"] = "gptq"
    correct_bias: bool = True
    min_snr: float | None = None
    max_drop: float | None = Field(default=None, ge=0)
    tuning: int = Field(default=64, ge=2)
    plan: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "Quantization":
        if self.plan is not None and self.has_budget:
            raise ValueError("a plan says already which layers stay in float; drop it, or min_snr and max_drop")
        if self.placement == "auto" and not self.has_budget:
            raise ValueError("placement auto keeps the faster that meets a budget; add min_snr or max_drop")
        return self

    @property
    def has_budget(self) -> bool:
        """Whether layers may have to go back to float."""
        return self.min_snr is not None or self.max_drop is not None

    @property
    def settled_placement(self) -> Placement:
        """The placement, where it is not still to be chosen.

        Raises:
            ValueError: it is.
        """
        if self.placement == "auto":
            raise ValueError("which placement is faster is not measured yet")
        return self.placement

    @property
    def int8_transitions(self) -> bool:
        """Whether transitions' convolutions are quantized, in the settled placement.

        Raises:
            ValueError: the placement is still to be chosen, and decides.
        """
        if self.transitions is None:
            return self.settled_placement == "state"
        return self.transitions == "int8"

    @property
    def needs_images(self) -> bool:
        """Whether it looks at activations, not only at their ranges."""
        return self.rounding == "gptq" or self.correct_bias


class Range(Record):
    """The smallest and largest value seen of one tensor."""

    lo: float
    hi: float

    @model_validator(mode="after")
    def _check(self) -> "Range":
        if not self.lo <= self.hi:
            raise ValueError(f"a range has lo <= hi, not {self.lo} and {self.hi}")
        return self

    @property
    def scale(self) -> float:
        """Symmetric int8 scale: the larger magnitude falls on ±127. 1 for a tensor that is always zero."""
        return max(abs(self.lo), abs(self.hi)) / INT8_MAX or 1.0


class ChannelRanges(Record):
    """The smallest and largest value seen of each channel of one tensor."""

    lo: tuple[float, ...]
    hi: tuple[float, ...]

    @property
    def whole(self) -> Range:
        """Of the tensor."""
        return Range(lo=min(self.lo), hi=max(self.hi))

    @property
    def largest(self) -> float:
        """The largest magnitude of all channels."""
        return max(max(-low, high) for low, high in zip(self.lo, self.hi, strict=True))


class Convergence(Record):
    """How near the scales were to their final values.

    Attributes:
        images: seen so far.
        largest_move: the greatest |1 − scale/final| over all tensors, before anything is clipped.
    """

    images: int
    largest_move: float


class PlannedLayer(Record):
    """What a convolution runs in, or, in placement ``state``, what a dense block is held in.

    Attributes:
        layer: name of its output; of a block, of its last concatenation's.
        precision: ``int8``, or ``float``: the body's.
        snr_db: of the logits with this layer alone in int8, on the tuning images; None where it was not measured or
            changed nothing.
        why: a sentence.
    """

    layer: str
    precision: Literal["int8", "float"]
    snr_db: float | None = None
    why: str = ""


class Trial(Record):
    """One placement as ``auto`` measured it.

    Attributes:
        placement: what was held in int8.
        kept: layers that had to stay in float for the budget.
        snr_db: centred SNR of the logits on the tuning images; None if exact, or if the budget could not be met.
        refused: why it was not measured.
        times_faster: than placement ``activation``, with its interval, in alternating blocks; None where not measured.
    """

    placement: Placement
    kept: int = 0
    snr_db: float | None = None
    refused: str | None = None
    times_faster: Ratio | None = None

    def __str__(self) -> str:
        if self.refused is not None:
            return f"{self.placement} refused: {self.refused}"
        speed = f", {self.times_faster} as fast as activation" if self.times_faster else ""
        snr = decibel_text(self.snr_db)
        return f"{self.placement} tried: {snr} on the tuning images with {self.kept} layers in float{speed}"

    def cells(self) -> dict[str, str]:
        """As a row of a table."""
        return {
            "placement": self.placement,
            "SNR": "–" if self.refused else decibel_text(self.snr_db),
            "layers in float": "–" if self.refused else str(self.kept),
            "faster than activation": str(self.times_faster or "–"),
            "refused": self.refused or "",
        }


class QuantizationPlan(Record):
    """Which layers are quantized: a file that can be committed, edited and used again.

    Attributes:
        graph_digest: of the canonical graph whose layers these are.
        placement: what is held in int8.
        layers: every convolution, and in placement ``state`` every dense block, that could be quantized.
        snr_db: centred SNR of the logits on the tuning images, where there was a budget; None also if exact.
        trials: of the placements, where they were tried.
        measured_on: the target on which.
    """

    graph_digest: str
    placement: Placement = "activation"
    layers: tuple[PlannedLayer, ...]
    snr_db: float | None = None
    trials: tuple[Trial, ...] = ()
    measured_on: str | None = None

    @property
    def kept(self) -> frozenset[str]:
        """Layers that stay in float."""
        return frozenset(layer.layer for layer in self.layers if layer.precision == "float")


class CalibrationTable(Record):
    """Ranges by tensor name, and where they come from.

    Attributes:
        calibration_set: the recipe of the images.
        image_digests: SHA-256 of each preprocessed image, in the order seen.
        graph_digest: of the graph whose tensors these are.
        preprocess_digest: of the preprocessing that made the images.
        flat: images of one colour each, which say nothing of what the network looks for.
        synthetic: no real image was seen; scales from such a table prove nothing about accuracy.
        coverage: images of each class, where classes are known.
        convergence: after growing numbers of images.
        ranges: by tensor name.
        channels: ranges of each channel of what dense blocks concatenate and transitions pool, by tensor name.
    """

    calibration_set: CalibrationSet
    image_digests: tuple[str, ...]
    graph_digest: str
    preprocess_digest: str
    synthetic: bool
    flat: int = 0
    coverage: dict[str, int] = Field(default_factory=dict)
    convergence: tuple[Convergence, ...] = ()
    ranges: dict[str, Range]
    channels: dict[str, ChannelRanges] = Field(default_factory=dict)

    def doubts(self) -> tuple[str, ...]:
        """Why ranges from such images may be too narrow, a sentence each."""
        found = []
        images, distinct = len(self.image_digests), len(set(self.image_digests))
        if images == 1:
            found.append("INT8 is calibrated on a single image: give more with --calibration-images")
        elif distinct < images:
            found.append(f"only {distinct} of the {images} calibration images are different pictures")
        if self.flat:
            found.append(f"{self.flat} of the {images} calibration images are of one colour each")
        unseen = [name for name, count in self.coverage.items() if count == 0]
        if unseen:
            classes = len(self.coverage)
            found.append(f"no image of {len(unseen)} of {classes} classes was calibrated on: {', '.join(unseen[:5])}")
        return tuple(found)

    def settled(self, share: float = 0.01) -> int | None:
        """After how many images the scales moved by less than ``share`` until the end; None if only at the end."""
        late = [point.images for point in self.convergence if point.largest_move >= share]
        later = [point.images for point in self.convergence if not late or point.images > late[-1]]
        return later[0] if later and later[0] < self.convergence[-1].images else None
