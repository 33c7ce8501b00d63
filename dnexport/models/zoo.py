"""Modules by their two sources: a checkpoint file, or a seed. Both can be called in any process."""

from pathlib import Path

import torch
from torch import nn

from dnexport.data.datasets import synthetic
from dnexport.data.images import input_from_pixels
from dnexport.errors import CheckpointError
from dnexport.models.checkpoint import fill, state_from_file
from dnexport.models.condensenet import CondenseNet
from dnexport.models.densenet import DenseNet
from dnexport.models.dpn import Dpn
from dnexport.models.peleenet import PeleeNet
from dnexport.spec.archs import AnyArch, CondenseNetArch, DenseNetArch, DpnArch, arch_from_text
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.training import CheckpointMetadata

_STATISTICS_IMAGES = 8


def module_from_arch(arch: AnyArch) -> nn.Module:
    """A network with He-initialised weights, in training mode."""
    if isinstance(arch, DenseNetArch):
        return DenseNet(arch)
    if isinstance(arch, CondenseNetArch):
        return CondenseNet(arch)
    return Dpn(arch) if isinstance(arch, DpnArch) else PeleeNet(arch)


def arch_from_file(path: Path, name: str | None) -> tuple[AnyArch, CheckpointMetadata | None]:
    """What network a checkpoint is of: its own word, else the named arch with the checkpoint's classes and channels.

    Raises:
        CheckpointError: it cannot be read, does not say, or does not fit strictly.
    """
    state, metadata = state_from_file(path)
    named = arch_from_text(name) if name else None
    if metadata is not None and (named is None or named.same_body(metadata.arch)):
        arch = metadata.arch
    elif named is not None:
        arch = named.model_copy(update=_ends(state))
    else:
        raise CheckpointError(f"checkpoint {path} does not say which arch it is of", "name it with --arch")
    fill(module_from_arch(arch), state, str(path))
    return arch, metadata


def module_from_file(path: Path, arch: AnyArch) -> nn.Module:
    """A network with the weights of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: as `checkpoint.fill`.
    """
    module = module_from_arch(arch)
    fill(module, state_from_file(path)[0], str(path))
    return module.eval()


def module_from_seed(arch: AnyArch, input_size: tuple[int, int], seed: int) -> nn.Module:
    """A network of random weights: He initialisation, and batch-norm statistics of one forward pass.

    Without that pass the activations of an untrained DenseNet grow from layer to layer, and neither latency nor
    parity would say anything about a trained one.
    """
    preprocess = Preprocess(input_size=input_size, resize=None)
    pixels = synthetic(_STATISTICS_IMAGES, preprocess, seed).pixels(preprocess)
    images = torch.from_numpy(input_from_pixels(pixels, preprocess))[:, : arch.channels]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = module_from_arch(arch)
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.momentum = None  # cumulative average: the statistics of this one batch
    with torch.no_grad():
        module.train()(images)
    return module.eval()


def _ends(state: dict[str, torch.Tensor]) -> dict[str, int]:
    """Input channels and classes, which a checkpoint fixes and a name does not."""
    ends = {}
    if (stem := state.get("features.conv0.weight")) is not None and stem.ndim == 4:
        ends["channels"] = int(stem.shape[1])
    if (head := state.get("classifier.weight")) is not None and head.ndim == 2:
        ends["classes"] = int(head.shape[0])
    return ends
