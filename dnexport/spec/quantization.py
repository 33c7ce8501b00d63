"""Calibration: which images, what was seen of each tensor, and the scale that follows."""

from typing import Literal

from pydantic import Field, model_validator

from dnexport.spec.record import Record

ObserverName = Literal["minmax", "percentile", "entropy", "mse"]

Centring = Literal["all", "pointwise", "none"]

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
        centre: subtract the middle of its range from what convolutions read (`graph.centre_activations`): of ``all``,
            of those without padding (``pointwise``: the 1×1), or of ``none``.
        rounding: of the weights: ``gptq`` lets the errors of a sum compensate each other (`calibrate.rounding`),
            ``nearest`` does not.
        correct_bias: put the mean error of each convolution into its bias (`graph.correct_bias`).
    """

    centre: Centring = "pointwise"
    rounding: Literal["gptq", "nearest"] = "gptq"
    correct_bias: bool = True

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


class Convergence(Record):
    """How near the scales were to their final values.

    Attributes:
        images: seen so far.
        largest_move: the greatest |1 − scale/final| over all tensors, before anything is clipped.
    """

    images: int
    largest_move: float


class CalibrationTable(Record):
    """Ranges by tensor name, and where they come from.

    Attributes:
        calibration_set: the recipe of the images.
        image_digests: SHA-256 of each preprocessed image, in the order seen.
        graph_digest: of the graph whose tensors these are.
        preprocess_digest: of the preprocessing that made the images.
        synthetic: no real image was seen; scales from such a table prove nothing about accuracy.
        coverage: images of each class, where classes are known.
        convergence: after growing numbers of images.
        ranges: by tensor name.
    """

    calibration_set: CalibrationSet
    image_digests: tuple[str, ...]
    graph_digest: str
    preprocess_digest: str
    synthetic: bool
    coverage: dict[str, int] = Field(default_factory=dict)
    convergence: tuple[Convergence, ...] = ()
    ranges: dict[str, Range]

    def settled(self, share: float = 0.01) -> int | None:
        """After how many images the scales moved by less than ``share`` until the end; None if only at the end."""
        late = [point.images for point in self.convergence if point.largest_move >= share]
        later = [point.images for point in self.convergence if not late or point.images > late[-1]]
        return later[0] if later and later[0] < self.convergence[-1].images else None
