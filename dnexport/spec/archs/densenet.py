"""DenseNet as a block table.

Letters are the paper's (Huang et al., *Densely Connected Convolutional Networks*, CVPR 2017): k growth rate,
B bottleneck, θ (theta) compression, C where θ < 1.
"""

import math
from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from dnexport.spec.archs.layers import ArchRecord, Convolution, Head, Layer, Norm, halved
from dnexport.spec.preprocess import CIFAR, IMAGENET, Preprocess

Stem = Literal["imagenet", "cifar"]


class DenseNetArch(ArchRecord):
    """A DenseNet.

    Attributes:
        blocks: dense layers in each dense block.
        k: growth rate, the channels each dense layer adds.
        bottleneck: a dense layer's 1×1 convolution has bottleneck·k outputs; 0 means no 1×1 convolution.
        theta: a transition keeps ⌊theta·channels⌋ of its channels; 1 keeps all.
        stem: ``imagenet`` is 7×7 stride 2, batch norm, ReLU and 3×3 max-pool stride 2; ``cifar`` is one 3×3.
        init: channels after the stem.
    """

    family: Literal["densenet"] = "densenet"
    blocks: tuple[int, ...]
    k: int = Field(ge=1)
    bottleneck: int = Field(default=4, ge=0)
    theta: float = Field(default=0.5, gt=0, le=1)
    stem: Stem = "imagenet"
    init: int = Field(default=64, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "DenseNetArch":
        if not self.blocks or min(self.blocks) < 1:
            raise ValueError("blocks has at least one dense block of at least one layer")
        self.check_layers()
        return self

    def layers(self, height: int, width: int) -> Iterator[Layer]:
        """Stem, dense blocks with transitions between them, norm5 and classifier."""
        if self.stem == "imagenet":
            height, width = halved(height), halved(width)
            yield Convolution("conv0", self.channels, self.init, 7, height, width)
            yield Norm(self.init)
            height, width = halved(height), halved(width)
        else:
            yield Convolution("conv0", self.channels, self.init, 3, height, width)
        features = self.init
        for b, layers in enumerate(self.blocks, start=1):
            for layer in range(1, layers + 1):
                yield from self._dense_layer(f"denseblock{b}.denselayer{layer}", features, height, width)
                features += self.k
            if b < len(self.blocks):
                kept = self.compressed(features)
                yield Norm(features)
                yield Convolution(f"transition{b}.conv", features, kept, 1, height, width)
                features, height, width = kept, height // 2, width // 2
        yield Norm(features)
        yield Head(features, self.classes)

    def _dense_layer(self, name: str, features: int, height: int, width: int) -> Iterator[Layer]:
        yield Norm(features)
        if not self.bottleneck:
            yield Convolution(f"{name}.conv1", features, self.k, 3, height, width)
            return
        inner = self.bottleneck * self.k
        yield Convolution(f"{name}.conv1", features, inner, 1, height, width)
        yield Norm(inner)
        yield Convolution(f"{name}.conv2", inner, self.k, 3, height, width)

    def compressed(self, channels: int) -> int:
        """Channels that a transition keeps."""
        return math.floor(channels * self.theta)

    @property
    def smallest_input(self) -> int:
        """Least height and width for which every layer still has an output pixel."""
        halvings = len(self.blocks) - 1
        return 1 << halvings if self.stem == "cifar" else 4 * (1 << halvings) - 3

    @property
    def input_size(self) -> int:
        """224 for the ImageNet stem, 32 for the CIFAR stem."""
        return 224 if self.stem == "imagenet" else 32

    @property
    def preprocess(self) -> Preprocess:
        """torchvision's for the ImageNet stem, efficient_densenet's for the CIFAR stem."""
        return IMAGENET if self.stem == "imagenet" else CIFAR
