"""How a picture becomes the network's input. Pinned in every bundle: it alone can move top-1 by 0.4 points."""

from typing import Literal

from pydantic import Field, model_validator

from dnexport.spec.record import Record

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Channels = Literal["rgb", "bgr", "grey"]
# What an engine is fed: normalised images, channels first; or pixels as they are, channels last.
InputType = Literal["float32", "uint8"]


LARGEST_SIDE = 8192


class Preprocess(Record):
    """Geometry (decode, resize, crop: uint8 NHWC) and arithmetic (``(x/255 - mean) / std``: float32 NCHW).

    Attributes:
        input_size: height and width of the network's input, in pixels; the crop's size.
        resize: length to which the shorter side is resized before the centred crop, in pixels;
            None resizes straight to ``input_size``, which may change the aspect ratio.
        interpolation: Pillow's resampling filter.
        channels: order of the colour planes, or one grey plane.
        mean: per channel, in units of full scale (0..1).
        std: per channel, in units of full scale (0..1).
    """

    input_size: tuple[int, int] = (224, 224)
    resize: int | None = Field(default=256, ge=1)
    interpolation: Interpolation = "bilinear"
    channels: Channels = "rgb"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _check(self) -> "Preprocess":
        if min(self.input_size) < 1 or max(self.input_size) > LARGEST_SIDE or (self.resize or 1) > LARGEST_SIDE:
            raise ValueError(f"input_size and resize are between 1 and {LARGEST_SIDE} pixels")
        if len(self.mean) != self.planes or len(self.std) != self.planes:
            raise ValueError(f"mean and std have {self.planes} values for channels '{self.channels}'")
        if min(self.std) < 1e-3 or max(self.std) > 1 or min(self.mean) < 0 or max(self.mean) > 1:
            raise ValueError("mean and std are in units of full scale, 0 to 1; divide those for 0 to 255 by 255")
        if self.resize is not None and self.resize < max(self.input_size):
            raise ValueError(f"resize {self.resize} is smaller than the crop {self.input_size}")
        return self

    @property
    def planes(self) -> int:
        """Number of input channels."""
        return 1 if self.channels == "grey" else 3

    @property
    def evaluation(self) -> str | None:
        """Whose ImageNet evaluation this is, where it is one: torchvision's or timm's."""
        proportion = self.resize is not None and self.resize * 224 == max(self.input_size) * 256
        if not proportion or self.mean != IMAGENET.mean or self.std != IMAGENET.std:
            return None
        return {"bilinear": "torchvision", "bicubic": "timm"}.get(self.interpolation)

    def __str__(self) -> str:
        """In words, with what tells apart the two evaluations of the same ImageNet weights.

        Their difference is from timm's results-imagenet.csv (``.tv`` rows) and torchvision's documentation.
        """
        size = "×".join(map(str, self.input_size))
        geometry = f"shorter side to {self.resize}, centred crop {size}" if self.resize else f"resized to {size}"
        words = f"{geometry}, {self.interpolation}, {self.channels}"
        if self.evaluation is None:
            return words
        other = "timm's is bicubic" if self.evaluation == "torchvision" else "torchvision's is bilinear"
        return f"{words} ({self.evaluation}'s evaluation; {other}, and 0.25 to 0.39 points apart on the same weights)"


IMAGENET = Preprocess()
CIFAR = Preprocess(input_size=(32, 32), resize=None, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
# The mean and spread of the digits' training part at 32 x 32.
DIGITS = Preprocess(input_size=(32, 32), resize=None, channels="grey", mean=(0.306,), std=(0.324,))
