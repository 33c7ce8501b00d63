"""The DenseNet architectures as data, with their arithmetic: channels, parameters, multiply-adds.

A record here is the single source of what a network is; `models.densenet` builds it, and the arithmetic
below is checked against the built module in the tests. Letters are the paper's (Huang et al., *Densely Connected
Convolutional Networks*, CVPR 2017): k growth rate, B bottleneck, θ (theta) compression, C where θ < 1.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from dnexport.errors import ArchError
from dnexport.spec.record import Record, nearest

Stem = Literal["imagenet", "cifar"]


class Convolution(NamedTuple):
    """One convolution of the network: its name and what it multiplies."""

    name: str
    channels_in: int
    channels_out: int
    kernel: int
    height: int
    width: int

    @property
    def weights(self) -> int:
        """Number of weights (no convolution of a DenseNet has a bias)."""
        return self.channels_in * self.channels_out * self.kernel**2

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.weights * self.height * self.width


class DenseNetArch(Record):
    """A DenseNet as a block table.

    Attributes:
        blocks: dense layers in each dense block.
        k: growth rate, the channels each dense layer adds.
        bottleneck: a dense layer's 1×1 convolution has bottleneck·k outputs; 0 means no 1×1 convolution.
        theta: a transition keeps ⌊theta·channels⌋ of its channels; 1 keeps all.
        stem: ``imagenet`` is 7×7 stride 2, batch norm, ReLU and 3×3 max-pool stride 2; ``cifar`` is one 3×3.
        init: channels after the stem.
        dropout: probability of dropping an output of a dense layer in training.
        classes: outputs of the classifier.
        channels: planes of the input image.
    """

    blocks: tuple[int, ...]
    k: int = Field(ge=1)
    bottleneck: int = Field(default=4, ge=0)
    theta: float = Field(default=0.5, gt=0, le=1)
    stem: Stem = "imagenet"
    init: int = Field(default=64, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    classes: int = Field(default=1000, ge=1)
    channels: int = Field(default=3, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "DenseNetArch":
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError("blocks has at least one dense block of at least one layer")
        return self

    def convolutions(self, height: int, width: int) -> Iterator[Convolution]:
        """All convolutions in the order of execution, for an input of ``height`` × ``width`` pixels."""
        if self.stem == "imagenet":
            height, width = _halve_up(height), _halve_up(width)
            yield Convolution("conv0", self.channels, self.init, 7, height, width)
            height, width = _halve_up(height), _halve_up(width)
        else:
            yield Convolution("conv0", self.channels, self.init, 3, height, width)
        width_of_concat = self.init
        for b, layers in enumerate(self.blocks, start=1):
            for layer in range(1, layers + 1):
                name = f"denseblock{b}.denselayer{layer}"
                inner = self.bottleneck * self.k
                if inner:
                    yield Convolution(f"{name}.conv1", width_of_concat, inner, 1, height, width)
                    yield Convolution(f"{name}.conv2", inner, self.k, 3, height, width)
                else:
                    yield Convolution(f"{name}.conv1", width_of_concat, self.k, 3, height, width)
                width_of_concat += self.k
            if b < len(self.blocks):
                kept = self.compressed(width_of_concat)
                yield Convolution(f"transition{b}.conv", width_of_concat, kept, 1, height, width)
                width_of_concat, height, width = kept, height // 2, width // 2

    def same_body(self, other: "DenseNetArch") -> bool:
        """Whether the two differ in nothing but input channels, classes and dropout."""
        return self == other.model_copy(
            update={"channels": self.channels, "classes": self.classes, "dropout": self.dropout}
        )

    def compressed(self, channels: int) -> int:
        """Channels that a transition keeps."""
        return math.floor(channels * self.theta)

    @property
    def features(self) -> int:
        """Channels of the last concatenation, the inputs of the classifier."""
        width = self.init
        for b, layers in enumerate(self.blocks, start=1):
            width += layers * self.k
            if b < len(self.blocks):
                width = self.compressed(width)
        return width

    @property
    def parameters(self) -> int:
        """Trainable parameters: convolutions, two per batch-norm channel, classifier with bias."""
        convolutions = list(self.convolutions(1 << 10, 1 << 10))
        # Each convolution but the stem's is preceded by a batch norm of its inputs; one follows the last block,
        # and the imagenet stem has one of its own.
        norm_channels = sum(c.channels_in for c in convolutions[1:]) + self.features
        norm_channels += self.init if self.stem == "imagenet" else 0
        return sum(c.weights for c in convolutions) + 2 * norm_channels + (self.features + 1) * self.classes

    def macs(self, height: int, width: int) -> int:
        """Multiply-adds of convolutions and classifier for one image; batch norm and pooling not counted."""
        return sum(c.macs for c in self.convolutions(height, width)) + self.features * self.classes

    @property
    def smallest_input(self) -> int:
        """Least height and width for which every layer still has an output pixel."""
        halvings = len(self.blocks) - 1
        return 1 << halvings if self.stem == "cifar" else 4 * (1 << halvings) - 3


class NamedArch(NamedTuple):
    """A published architecture: its record, its input and what its authors measured."""

    arch: DenseNetArch
    input_size: int
    published_top1_error: float | None
    source: str

    @property
    def input(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        return self.arch.channels, self.input_size, self.input_size

    @property
    def macs(self) -> int:
        """Multiply-adds for one image."""
        return self.arch.macs(self.input_size, self.input_size)

    def document(self) -> dict[str, Any]:
        """An element of ``archs --json``, but for the name."""
        return {
            "parameters": self.arch.parameters,
            "macs": self.macs,
            "input": list(self.input),
            "published_top1_error": self.published_top1_error,
            "source": self.source,
        }


_TORCHVISION = "torchvision documentation, ImageNet-1k, one 224 crop"
_PAPER_CIFAR = "Huang et al., CVPR 2017, table 2, CIFAR-10 with augmentation (C10+)"


def _imagenet(blocks: tuple[int, ...], k: int, init: int, error: float | None, source: str) -> NamedArch:
    return NamedArch(DenseNetArch(blocks=blocks, k=k, init=init), 224, error, source)


def _cifar(depth: int, k: int, error: float | None, source: str = _PAPER_CIFAR) -> NamedArch:
    """The basic form: 3 blocks of 3×3 convolutions, 16 channels after the stem, no compression."""
    layers = (depth - 4) // 3
    arch = DenseNetArch(blocks=(layers,) * 3, k=k, bottleneck=0, theta=1.0, stem="cifar", init=16, classes=10)
    return NamedArch(arch, 32, error, source)


def _cifar_bc(depth: int, k: int, error: float | None, source: str = _PAPER_CIFAR) -> NamedArch:
    """The BC form: each layer is two convolutions, 2k channels after the stem, θ = 0.5."""
    layers = (depth - 4) // 6
    arch = DenseNetArch(blocks=(layers,) * 3, k=k, stem="cifar", init=2 * k, classes=10)
    return NamedArch(arch, 32, error, source)


NAMED: dict[str, NamedArch] = {
    "densenet121": _imagenet((6, 12, 24, 16), 32, 64, 25.566, _TORCHVISION),
    "densenet161": _imagenet((6, 12, 36, 24), 48, 96, 22.862, _TORCHVISION),
    "densenet169": _imagenet((6, 12, 32, 32), 32, 64, 24.400, _TORCHVISION),
    "densenet201": _imagenet((6, 12, 48, 32), 32, 64, 23.104, _TORCHVISION),
    "densenet264": _imagenet((6, 12, 64, 48), 32, 64, 22.1, "liuzhuang13/DenseNet README, ImageNet-1k, one crop"),
    "densenet-40-12": _cifar(40, 12, 5.24),
    "densenet-100-12": _cifar(100, 12, 4.10),
    "densenet-100-24": _cifar(100, 24, 3.74),
    "densenet-bc-40-12": _cifar_bc(40, 12, None, "the smallest BC form; not in the paper"),
    "densenet-bc-100-12": _cifar_bc(100, 12, 4.51),
    "densenet-bc-250-24": _cifar_bc(250, 24, 3.62),
    "densenet-bc-190-40": _cifar_bc(190, 40, 3.46),
}


def named_arch(name: str) -> NamedArch:
    """Look an architecture up by name; the prefix ``densenet-`` of the CIFAR forms may be left out.

    Raises:
        ArchError: no architecture has that name.
    """
    key = name.strip().lower()
    found = NAMED.get(key) or NAMED.get(f"densenet-{key}")
    if found is None:
        raise ArchError(f"unknown arch '{name}'", nearest(key, NAMED) + " ('dnexport archs' lists them all)")
    return found


def _halve_up(pixels: int) -> int:
    return (pixels + 1) // 2
