"""DenseNet, small to large: layer, block, transition, network.

Huang, Liu, van der Maaten, Weinberger: *Densely Connected Convolutional Networks*, CVPR 2017. Each layer sees the
concatenation of all earlier feature maps of its block and adds k of its own:

    x_l = H_l([x_0, x_1, …, x_{l-1}])        H = BN-ReLU-Conv1×1(4k)-BN-ReLU-Conv3×3(k)   (B)
                                             H = BN-ReLU-Conv3×3(k)                       (without bottleneck)

Parameter names are torchvision's, so that its checkpoints and timm's load as they are.

The memory-efficient form (Pleiss et al., *Memory-Efficient Implementation of DenseNets*, 2017) does not keep the
concatenations and what follows them up to the 1×1 convolution for the backward pass, but computes them again there:
saved activations grow linearly with the depth, not quadratically. Gradients and batch-norm statistics are the same.
"""

import functools
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dnexport.models.initialise import he_initialise
from dnexport.spec.archs import DenseNetArch


class DenseLayer(nn.Module):
    """H_l: from all feature maps of the block so far to k new ones."""

    def __init__(self, channels: int, arch: DenseNetArch, memory_efficient: bool) -> None:
        super().__init__()
        self.memory_efficient = memory_efficient
        inner = arch.bottleneck * arch.k
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        if inner:
            self.conv1 = nn.Conv2d(channels, inner, kernel_size=1, bias=False)
            self.norm2 = nn.BatchNorm2d(inner)
            self.conv2 = nn.Conv2d(inner, arch.k, kernel_size=3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(channels, arch.k, kernel_size=3, padding=1, bias=False)
        self.bottleneck = inner > 0
        self.dropout = nn.Dropout(arch.dropout)

    def forward(self, features: list[Tensor]) -> Tensor:
        if self.memory_efficient and torch.is_grad_enabled() and any(f.requires_grad for f in features):
            contexts = functools.partial(_recomputation, self.norm1)
            x = checkpoint(self._first_half, *features, use_reentrant=False, context_fn=contexts)
        else:
            x = self._first_half(*features)
        if self.bottleneck:
            x = self.conv2(self.relu(self.norm2(x)))
        new: Tensor = self.dropout(x)
        return new

    def _first_half(self, *features: Tensor) -> Tensor:
        x: Tensor = self.conv1(self.relu(self.norm1(torch.cat(features, 1))))
        return x


def _recomputation(norm: nn.BatchNorm2d) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of the first pass and of its repetition, in which the batch norm must not count the batch again."""
    return nullcontext(), _uncounted(norm)


@contextmanager
def _uncounted(norm: nn.BatchNorm2d) -> Iterator[None]:
    momentum, batches = norm.momentum, norm.num_batches_tracked
    norm.momentum = 0.0
    norm.num_batches_tracked = None
    try:
        yield
    finally:
        norm.momentum, norm.num_batches_tracked = momentum, batches


class DenseBlock(nn.Module):
    """L layers, each connected to all before it."""

    def __init__(self, channels: int, layers: int, arch: DenseNetArch, memory_efficient: bool) -> None:
        super().__init__()
        for i in range(layers):
            self.add_module(f"denselayer{i + 1}", DenseLayer(channels + i * arch.k, arch, memory_efficient))

    def forward(
        self, x: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch more_channels height width"]:
        features = [x]
        for layer in self.children():
            features.append(layer(features))
        return torch.cat(features, 1)


class Transition(nn.Sequential):
    """BN-ReLU-Conv1×1(θ·channels)-AvgPool2: fewer channels, a quarter of the pixels."""

    def __init__(self, channels: int, kept: int) -> None:
        super().__init__(
            OrderedDict(
                norm=nn.BatchNorm2d(channels),
                relu=nn.ReLU(inplace=True),
                conv=nn.Conv2d(channels, kept, kernel_size=1, bias=False),
                pool=nn.AvgPool2d(kernel_size=2, stride=2),
            )
        )


class DenseNet(nn.Module):
    """The network of an `arch` record: stem, dense blocks with transitions between them, head.

    Args:
        arch: what to build.
        memory_efficient: compute concatenations again in the backward pass instead of keeping them.
    """

    def __init__(self, arch: DenseNetArch, *, memory_efficient: bool = False) -> None:
        super().__init__()
        self.arch = arch

        # Stem
        if arch.stem == "imagenet":
            stem: OrderedDict[str, nn.Module] = OrderedDict(
                conv0=nn.Conv2d(arch.channels, arch.init, kernel_size=7, stride=2, padding=3, bias=False),
                norm0=nn.BatchNorm2d(arch.init),
                relu0=nn.ReLU(inplace=True),
                pool0=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            )
        else:
            stem = OrderedDict(conv0=nn.Conv2d(arch.channels, arch.init, kernel_size=3, padding=1, bias=False))
        self.features = nn.Sequential(stem)

        # Dense blocks
        channels = arch.init
        for b, layers in enumerate(arch.blocks, start=1):
            self.features.add_module(f"denseblock{b}", DenseBlock(channels, layers, arch, memory_efficient))
            channels += layers * arch.k
            if b < len(arch.blocks):
                kept = arch.compressed(channels)
                self.features.add_module(f"transition{b}", Transition(channels, kept))
                channels = kept

        # Head
        self.features.add_module("norm5", nn.BatchNorm2d(channels))
        self.classifier = nn.Linear(channels, arch.classes)

        he_initialise(self)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = torch.relu(self.features(x))
        logits: Tensor = self.classifier(torch.flatten(nn.functional.adaptive_avg_pool2d(x, 1), 1))
        return logits
