"""DPN, small to large: norm-activation-convolution, dual path block, network.

Chen, Li, Xiao, Jin, Yan, Feng: *Dual Path Networks*, NeurIPS 2017. Each block's output is split: one part is added to
the residual path, the other concatenated to the dense path. Parameter names are timm's.
"""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from dnexport.models.initialise import he_initialise
from dnexport.spec.archs import DpnArch
from dnexport.spec.archs.dpn import DualPath

EPSILON = 1e-3


class Norm(nn.Module):
    """BN-ReLU, or BN-ELU before the classifier."""

    def __init__(self, channels: int, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=EPSILON)
        self.activation = activation or nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.activation(self.bn(x))
        return y


class NormConv(nn.Module):
    """BN-ReLU-Conv."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=EPSILON)
        self.conv = nn.Conv2d(channels, out, kernel, stride, padding=kernel // 2, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.relu(self.bn(x)))
        return y


class DualPathBlock(nn.Module):
    """(residual path, dense path) → the same, the first with something added, the second longer."""

    def __init__(self, block: DualPath, groups: int, b: bool) -> None:
        super().__init__()
        self.residual = block.residual
        self.projection = f"c1x1_w_s{block.stride}" if block.projects else None
        if self.projection is not None:
            out = block.residual + 2 * block.inc
            self.add_module(self.projection, NormConv(block.features, out, 1, block.stride))
        self.c1x1_a = NormConv(block.features, block.r, 1)
        self.c3x3_b = NormConv(block.r, block.r, 3, block.stride, groups)
        self.b = b
        if b:
            self.c1x1_c: nn.Module = Norm(block.r)
            self.c1x1_c1 = nn.Conv2d(block.r, block.residual, kernel_size=1, bias=False)
            self.c1x1_c2 = nn.Conv2d(block.r, block.inc, kernel_size=1, bias=False)
        else:
            self.c1x1_c = NormConv(block.r, block.residual + block.inc, 1)

    def forward(self, paths: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        residual, dense = paths
        whole = torch.cat([residual, dense], 1) if dense.shape[1] else residual
        if self.projection is not None:
            projected = self.get_submodule(self.projection)(whole)
            residual, dense = projected[:, : self.residual], projected[:, self.residual :]
        x = self.c1x1_c(self.c3x3_b(self.c1x1_a(whole)))
        if self.b:
            added, new = self.c1x1_c1(x), self.c1x1_c2(x)
        else:
            added, new = x[:, : self.residual], x[:, self.residual :]
        return residual + added, torch.cat([dense, new], 1)


class Stem(nn.Module):
    """Conv-BN-ReLU."""

    def __init__(self, channels: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, stride=2, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Dpn(nn.Module):
    """The network of an `arch` record."""

    def __init__(self, arch: DpnArch) -> None:
        super().__init__()
        self.arch = arch
        parts: OrderedDict[str, nn.Module] = OrderedDict(conv1_1=Stem(arch.channels, arch.init, 3 if arch.small else 7))
        parts["conv1_pool"] = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        for block in arch.blocks():
            parts[block.name] = DualPathBlock(block, arch.groups, arch.b)
        parts["conv5_bn_ac"] = Norm(arch.features, nn.ELU())
        self.features = nn.ModuleDict(parts)
        self.classifier = nn.Conv2d(arch.features, arch.classes, kernel_size=1)

        he_initialise(self)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes"]:
        x = self.features["conv1_pool"](self.features["conv1_1"](x))
        paths = (x, x[:, :0])
        for module in self.features.values():
            if isinstance(module, DualPathBlock):
                paths = module(paths)
        x = self.features["conv5_bn_ac"](torch.cat(paths, 1))
        return torch.flatten(self.classifier(nn.functional.adaptive_avg_pool2d(x, 1)), 1)
