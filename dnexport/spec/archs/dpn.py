"""Dual path networks: each block adds to a residual path and concatenates to a dense path.

Chen, Li, Xiao, Jin, Yan, Feng: *Dual Path Networks*, NeurIPS 2017. Letters as in timm: k_r width of the first
bottleneck, k_sec blocks a stage, inc_sec growth of the dense path a stage.
"""

from collections.abc import Iterator
from typing import Literal, NamedTuple

from pydantic import Field, model_validator

from dnexport.spec.archs.layers import ArchRecord, Convolution, Head, Layer, Norm, halved
from dnexport.spec.preprocess import Preprocess

# Published as 124, 117, 104 of 255 and a scale of 0.0167.
PREPROCESS = Preprocess(
    interpolation="bicubic", mean=(124 / 255, 117 / 255, 104 / 255), std=(1 / (0.0167 * 255),) * 3
)  # fmt: skip


class DualPath(NamedTuple):
    """The numbers of one block: its name, inputs, bottleneck r, residual width, growth, and whether it projects."""

    name: str
    features: int
    r: int
    residual: int
    inc: int
    stride: int
    projects: bool


class DpnArch(ArchRecord):
    """A dual path network.

    Attributes:
        small: 3×3 stem and residual widths of 64 to 512; otherwise 7×7 and 256 to 2048.
        b: the variant whose last convolution is two, one a path.
        init: channels after the stem.
        k_r: width of the first stage's bottleneck.
        groups: of the 3×3 convolutions.
        k_sec: blocks a stage.
        inc_sec: channels each block adds to the dense path, by stage.
    """

    family: Literal["dpn"] = "dpn"
    small: bool = False
    b: bool = False
    init: int = Field(default=64, ge=1)
    k_r: int = Field(default=96, ge=1)
    groups: int = Field(default=32, ge=1)
    k_sec: tuple[int, int, int, int] = (3, 4, 20, 3)
    inc_sec: tuple[int, int, int, int] = (16, 32, 24, 128)

    @model_validator(mode="after")
    def _check(self) -> "DpnArch":
        if min(self.k_sec) < 1 or min(self.inc_sec) < 1 or self.k_r % self.groups:
            raise ValueError("k_sec and inc_sec are positive, and k_r is a multiple of groups")
        self.check_layers()
        return self

    def blocks(self) -> Iterator[DualPath]:
        """The blocks in order."""
        factor, features = (1 if self.small else 4), self.init
        for stage, (count, inc) in enumerate(zip(self.k_sec, self.inc_sec, strict=True)):
            residual, r = 64 * 2**stage * factor, self.k_r * 2**stage
            for i in range(1, count + 1):
                yield DualPath(f"conv{stage + 2}_{i}", features, r, residual, inc, 2 if i == 1 and stage else 1, i == 1)
                features = (residual + 3 * inc) if i == 1 else features + inc

    @property
    def features(self) -> int:
        """Inputs of the classifier."""
        last = list(self.blocks())[-1]
        return last.residual + 3 * last.inc if last.projects else last.features + last.inc

    def layers(self, height: int, width: int) -> Iterator[Layer]:
        """Stem, blocks, last norm and classifier."""
        height, width = halved(height), halved(width)
        yield Convolution("conv1_1", self.channels, self.init, 3 if self.small else 7, height, width)
        yield Norm(self.init)
        height, width = halved(height), halved(width)
        for block in self.blocks():
            before = (height, width)
            if block.stride == 2:
                height, width = halved(height), halved(width)
            if block.projects:
                yield Norm(block.features)
                out = block.residual + 2 * block.inc
                yield Convolution(f"{block.name}.c1x1_w", block.features, out, 1, height, width)
            yield Norm(block.features)
            yield Convolution(f"{block.name}.c1x1_a", block.features, block.r, 1, *before)
            yield Norm(block.r)
            yield Convolution(f"{block.name}.c3x3_b", block.r, block.r, 3, height, width, self.groups)
            yield Norm(block.r)
            yield Convolution(f"{block.name}.c1x1_c", block.r, block.residual + block.inc, 1, height, width)
        yield Norm(self.features)
        yield Head(self.features, self.classes)

    @property
    def smallest_input(self) -> int:
        """One pixel is enough: every stride pads."""
        return 1

    @property
    def preprocess(self) -> Preprocess:
        """The authors'."""
        return PREPROCESS
