"""CondenseNet as stages, in its two forms.

Huang, Liu, van der Maaten, Weinberger: *CondenseNet: An Efficient DenseNet using Learned Group Convolutions*,
CVPR 2018. In training each 1×1 convolution is full, and learns which inputs each of its G groups may drop until 1/C are
left; for deployment the inputs that are left are gathered by index, and the convolution is an ordinary grouped one.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from dnexport.spec.archs.layers import ArchRecord, Convolution, Head, Layer, Norm, halved
from dnexport.spec.preprocess import CIFAR, IMAGENET, Preprocess


class CondenseNetArch(ArchRecord):
    """A CondenseNet.

    Attributes:
        stages: dense layers in each dense block.
        growth: channels each dense layer adds, by block.
        bottleneck: a 1×1 convolution has bottleneck·growth outputs.
        groups: G, groups of the 1×1 and of the 3×3 convolutions.
        condense: C, of a 1×1 convolution's inputs each group keeps 1/C.
        stem: ``imagenet`` is 3×3 stride 2, ``cifar`` 3×3 stride 1; 2·growth outputs, no norm.
        form: ``training`` (full 1×1, masks) or ``converted`` (index, grouped 1×1).
        head: features that the classifier of the converted form reads: ``half``, as the authors' conversion leaves it,
            or ``all``, where the other half is not zero.
    """

    family: Literal["condensenet"] = "condensenet"
    stages: tuple[int, ...]
    growth: tuple[int, ...]
    bottleneck: int = Field(default=4, ge=1)
    groups: int = Field(default=4, ge=1)
    condense: int = Field(default=4, ge=1)
    stem: Literal["imagenet", "cifar"] = "imagenet"
    form: Literal["training", "converted"] = "converted"
    head: Literal["half", "all"] = "half"

    @model_validator(mode="after")
    def _check(self) -> "CondenseNetArch":
        if not self.stages or min(self.stages) < 1 or len(self.stages) != len(self.growth) or min(self.growth) < 1:
            raise ValueError("stages and growth have one positive number a block")
        for growth in self.growth:
            if growth % self.groups or (2 * self.growth[0]) % self.condense or growth % self.condense:
                raise ValueError("every growth is a multiple of groups and of condense")
        self.check_layers()
        return self

    def layers(self, height: int, width: int) -> Iterator[Layer]:
        """Stem, dense blocks with pooling between them, norm_last and classifier."""
        features = 2 * self.growth[0]
        if self.stem == "imagenet":
            height, width = halved(height), halved(width)
        yield Convolution("init_conv", self.channels, features, 3, height, width)
        converted = self.form == "converted"
        for b, (layers, growth) in enumerate(zip(self.stages, self.growth, strict=True), start=1):
            for layer in range(1, layers + 1):
                name, inner = f"denseblock_{b}.denselayer_{layer}", self.bottleneck * growth
                seen = self.gathered(features) if converted else features
                yield Norm(seen)
                groups = self.groups if converted else 1
                yield Convolution(f"{name}.conv_1", seen, inner, 1, height, width, groups)
                yield Norm(inner)
                yield Convolution(f"{name}.conv_2", inner, growth, 3, height, width, self.groups)
                features += growth
            if b < len(self.stages):
                height, width = height // 2, width // 2
        yield Norm(features)
        yield Head(features // 2 if converted and self.head == "half" else features, self.classes)

    def gathered(self, features: int) -> int:
        """Inputs of a converted 1×1 convolution: G groups of 1/C of the features each."""
        return features // self.condense * self.groups

    @property
    def smallest_input(self) -> int:
        """Least height and width for which every layer still has an output pixel."""
        halvings = len(self.stages) - 1
        return 1 << halvings if self.stem == "cifar" else 2 * (1 << halvings) - 1

    @property
    def input_size(self) -> int:
        """224 for the ImageNet stem, 32 for the CIFAR stem."""
        return 224 if self.stem == "imagenet" else 32

    @property
    def preprocess(self) -> Preprocess:
        """ImageNet's or CIFAR's mean and spread."""
        return IMAGENET if self.stem == "imagenet" else CIFAR
