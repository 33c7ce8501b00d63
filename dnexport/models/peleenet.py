"""PeleeNet, small to large: convolution with its norm, stem block, two-way dense layer, network.

Wang, Li, Ling: *Pelee: A Real-Time Object Detection System on Mobile Devices*, NeurIPS 2018. Convolution, batch norm,
ReLU in this order, so that every norm folds. Parameter names are those of the authors' code.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnexport.models.initialise import he_initialise
from dnexport.spec.archs import PeleeNetArch


class ConvNorm(nn.Module):
    """Conv-BN-ReLU, padded to the same size."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, bias=False)
        self.norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


class StemBlock(nn.Module):
    """A quarter of the pixels by two ways: convolutions and max-pooling."""

    def __init__(self, channels: int, init: int) -> None:
        super().__init__()
        self.stem1 = ConvNorm(channels, init, 3, 2)
        self.stem2a = ConvNorm(init, init // 2, 1)
        self.stem2b = ConvNorm(init // 2, init, 3, 2)
        self.stem3 = ConvNorm(2 * init, init, 1)
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem1(x)
        y: Tensor = self.stem3(torch.cat([self.stem2b(self.stem2a(x)), self.pool(x)], 1))
        return y


class DenseLayer(nn.Module):
    """k new channels, half from one 3×3 convolution and half from two in a row."""

    def __init__(self, channels: int, inner: int, branch: int, dropout: float) -> None:
        super().__init__()
        self.branch1a = ConvNorm(channels, inner, 1)
        self.branch1b = ConvNorm(inner, branch, 3)
        self.branch2a = ConvNorm(channels, inner, 1)
        self.branch2b = ConvNorm(inner, branch, 3)
        self.branch2c = ConvNorm(branch, branch, 3)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        near = self.dropout(self.branch1b(self.branch1a(x)))
        far = self.dropout(self.branch2c(self.branch2b(self.branch2a(x))))
        return torch.cat([x, near, far], 1)


class PeleeNet(nn.Module):
    """The network of an `arch` record."""

    def __init__(self, arch: PeleeNetArch) -> None:
        super().__init__()
        self.arch = arch
        self.features = nn.Sequential()

        # Stem
        self.features.add_module("stemblock", StemBlock(arch.channels, arch.init))

        # Dense blocks
        channels = arch.init
        for b, (layers, wide) in enumerate(zip(arch.blocks, arch.bottleneck, strict=True), start=1):
            block = nn.Sequential()
            for i in range(1, layers + 1):
                layer = DenseLayer(channels, arch.inner(channels, wide), arch.k // 2, arch.dropout)
                block.add_module(f"denselayer{i}", layer)
                channels += arch.k
            self.features.add_module(f"denseblock{b}", block)
            self.features.add_module(f"transition{b}", ConvNorm(channels, channels, 1))
            if b < len(arch.blocks):
                self.features.add_module(f"transition{b}_pool", nn.AvgPool2d(kernel_size=2, stride=2))

        # Head
        self.dropout = nn.Dropout(arch.dropout)
        self.classifier = nn.Linear(channels, arch.classes)

        he_initialise(self)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = torch.flatten(nn.functional.adaptive_avg_pool2d(self.features(x), 1), 1)
        logits: Tensor = self.classifier(self.dropout(x))
        return logits
