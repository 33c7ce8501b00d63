"""PeleeNet: a DenseNet with two-way dense layers and a costlier stem, for real time on small devices.

Wang, Li, Ling: *Pelee: A Real-Time Object Detection System on Mobile Devices*, NeurIPS 2018. Every batch norm follows
its convolution, so that, unlike a DenseNet's, all of them fold.
"""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from dnexport.spec.archs.layers import ArchRecord, Convolution, Head, Layer, Norm, halved


class PeleeNetArch(ArchRecord):
    """A PeleeNet.

    Attributes:
        blocks: dense layers in each dense block.
        k: growth rate; each of the two branches adds k/2.
        bottleneck: width of the branches' 1×1 convolutions by block, in units of k/2.
        init: channels after the stem.
    """

    family: Literal["peleenet"] = "peleenet"
    blocks: tuple[int, ...] = (3, 4, 8, 6)
    k: int = Field(default=32, ge=8)
    bottleneck: tuple[int, ...] = (1, 2, 4, 4)
    init: int = Field(default=32, ge=2)

    @model_validator(mode="after")
    def _check(self) -> "PeleeNetArch":
        if not self.blocks or min(self.blocks) < 1 or len(self.blocks) != len(self.bottleneck) or self.k % 2:
            raise ValueError("blocks and bottleneck have one positive number a block, and k is even")
        self.check_layers()
        return self

    def layers(self, height: int, width: int) -> Iterator[Layer]:
        """Stem block, dense blocks each with a transition, classifier."""
        half, quarter = (halved(height), halved(width)), (halved(height) // 2, halved(width) // 2)
        yield from _conv_norm("stem1", self.channels, self.init, 3, half)
        yield from _conv_norm("stem2a", self.init, self.init // 2, 1, half)
        yield from _conv_norm("stem2b", self.init // 2, self.init, 3, quarter)
        yield from _conv_norm("stem3", 2 * self.init, self.init, 1, quarter)
        features, size, branch = self.init, quarter, self.k // 2
        for b, (layers, wide) in enumerate(zip(self.blocks, self.bottleneck, strict=True), start=1):
            for layer in range(1, layers + 1):
                name, inner = f"denseblock{b}.denselayer{layer}", self.inner(features, wide)
                yield from _conv_norm(f"{name}.branch1a", features, inner, 1, size)
                yield from _conv_norm(f"{name}.branch1b", inner, branch, 3, size)
                yield from _conv_norm(f"{name}.branch2a", features, inner, 1, size)
                yield from _conv_norm(f"{name}.branch2b", inner, branch, 3, size)
                yield from _conv_norm(f"{name}.branch2c", branch, branch, 3, size)
                features += self.k
            yield from _conv_norm(f"transition{b}", features, features, 1, size)
            if b < len(self.blocks):
                size = (size[0] // 2, size[1] // 2)
        yield Head(features, self.classes)

    def inner(self, features: int, wide: int) -> int:
        """Outputs of a branch's 1×1 convolution: a multiple of four, at most half of the features."""
        inner = self.k // 2 * wide // 4 * 4
        return features // 8 * 4 if inner > features / 2 else inner

    @property
    def smallest_input(self) -> int:
        """Least height and width for which every layer still has an output pixel."""
        return 2 * (2 << (len(self.blocks) - 1)) - 1

    def refusal(self, height: int, width: int) -> str | None:
        """The stem concatenates a padded stride and an unpadded pooling, which agree on even sizes only."""
        if halved(height) % 2 or halved(width) % 2:
            return "the stem of PeleeNet needs an even number of pixels after its first stride: a multiple of 4 fits"
        return super().refusal(height, width)


def _conv_norm(name: str, channels_in: int, channels_out: int, kernel: int, size: tuple[int, int]) -> Iterator[Layer]:
    yield Convolution(name, channels_in, channels_out, kernel, *size)
    yield Norm(channels_out)
