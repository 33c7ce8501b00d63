"""The small network that many tests share."""

import numpy as np
import torch
from torch import nn

from dnexport.data.datasets import synthetic
from dnexport.models.zoo import module_from_arch
from dnexport.spec.archs import AnyArch, CondenseNetArch, DenseNetArch, DpnArch, PeleeNetArch
from dnexport.spec.preprocess import Preprocess

TINY = DenseNetArch(blocks=(2, 2), k=4, stem="cifar", init=8, classes=5)
# One small network a family, for 32×32 pixels.
FAMILY: dict[str, AnyArch] = {
    "densenet": DenseNetArch(blocks=(2, 2, 2), k=4, init=8, classes=6),
    "condensenet": CondenseNetArch(stages=(2, 2), growth=(8, 16), classes=6),
    "condensenet training": CondenseNetArch(stages=(2, 2), growth=(8, 16), classes=6, form="training"),
    "peleenet": PeleeNetArch(blocks=(1, 2), bottleneck=(1, 2), k=16, init=16, classes=6),
    "dpn": DpnArch(small=True, init=8, k_r=16, groups=4, k_sec=(1, 2, 1, 1), inc_sec=(4, 4, 4, 8), classes=6),
    "dpn b": DpnArch(small=True, b=True, init=8, k_r=16, groups=4, k_sec=(1, 2, 1, 1), inc_sec=(4, 4, 4, 8), classes=6),
}
TINY_PREPROCESS = Preprocess(input_size=(16, 16), resize=None)
FAMILY_PREPROCESS = Preprocess(input_size=(32, 32), resize=None)


def tiny_pixels(count: int, seed: int = 0) -> np.ndarray:
    return synthetic(count, TINY_PREPROCESS, seed).pixels(TINY_PREPROCESS)


def check_arithmetic(arch: AnyArch, height: int, width: int) -> None:
    """Parameters and multiply-adds of the record against those of the built module."""
    module = module_from_arch(arch).eval()
    assert sum(p.numel() for p in module.parameters()) == arch.parameters
    macs = 0

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal macs
        macs += layer.weight.numel() * (output.shape[2] * output.shape[3] if isinstance(layer, nn.Conv2d) else 1)

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            layer.register_forward_hook(count)
        if type(layer).__name__ == "LearnedGroupConv":  # it calls its convolution's function, not the module
            layer.register_forward_hook(lambda self, _, output: count(self.conv, None, output))
    with torch.no_grad():
        assert module(torch.zeros(1, arch.channels, height, width)).shape == (1, arch.classes)
    assert macs == arch.macs(height, width)
