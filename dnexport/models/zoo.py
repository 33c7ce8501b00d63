"""Modules by their two sources: a checkpoint file, or a seed. Both can be called in any process."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from dnexport.data.datasets import synthetic
from dnexport.data.images import input_from_pixels
from dnexport.errors import ArchError
from dnexport.models.checkpoint import fill, state_from_file
from dnexport.models.condensenet import CondenseNet
from dnexport.models.densenet import DenseNet
from dnexport.models.dpn import Dpn
from dnexport.models.infer import arch_from_state
from dnexport.models.layouts import layout_from_keys, renamed
from dnexport.models.peleenet import PeleeNet
from dnexport.spec.archs import AnyArch, CondenseNetArch, DenseNetArch, DpnArch, arch_from_text
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.training import CheckpointMetadata

_STATISTICS_IMAGES = 8


def module_from_arch(arch: AnyArch, *, memory_efficient: bool = False) -> nn.Module:
    """A network with He-initialised weights, in training mode.

    Args:
        arch: what to build.
        memory_efficient: the form of `densenet` that trades time for memory; DenseNets only.

    Raises:
        ArchError: another family has no such form.
    """
    if memory_efficient and not isinstance(arch, DenseNetArch):
        raise ArchError(f"{arch.family} has no memory-efficient form", "drop --memory-efficient")
    if isinstance(arch, DenseNetArch):
        return DenseNet(arch, memory_efficient=memory_efficient)
    if isinstance(arch, CondenseNetArch):
        return CondenseNet(arch)
    return Dpn(arch) if isinstance(arch, DpnArch) else PeleeNet(arch)


@dataclass(frozen=True)
class Recognised:
    """A checkpoint whose every key has found its parameter.

    Attributes:
        layout: whose naming it is in.
        arch: what network it is of.
        state: its tensors in this project's names.
        aside: keys that belong to the file but not to the network, with what they are.
        multi_label: its network answers several questions at once, a sigmoid each.
        metadata: what a checkpoint of ours says of itself.
    """

    layout: str
    arch: AnyArch
    state: dict[str, torch.Tensor]
    aside: tuple[str, ...] = ()
    multi_label: bool = False
    metadata: CheckpointMetadata | None = None


def recognised_from_file(path: Path, name: str | None = None) -> Recognised:
    """Read a checkpoint in any known layout and prove that it fills its network.

    Args:
        path: the file.
        name: an arch that it must be of; classes and input channels are the checkpoint's.

    Raises:
        CheckpointError: unreadable, of no known layout, or not strictly filling the network.
        ArchError: no arch has that name.
    """
    raw, metadata = state_from_file(path)
    wanted = arch_from_text(name) if name else None
    if metadata is not None:
        found = Recognised("dnexport", metadata.arch, raw, metadata=metadata)
    else:
        layout = layout_from_keys(raw, str(path))
        state, aside = renamed(raw, layout, str(path))
        arch = arch_from_state(layout.family, state, str(path))
        found = Recognised(layout.name, arch, state, aside, layout.multi_label)
    if wanted is not None:
        # The user's word goes before a reading of shapes, which do not show strides; it must fill as strictly.
        ends = {"channels": found.arch.channels, "classes": found.arch.classes}
        found = dataclasses.replace(found, arch=wanted.model_copy(update=ends))
    fill(module_from_arch(found.arch), found.state, str(path))
    return found


def module_from_file(path: Path, arch: AnyArch) -> nn.Module:
    """A network with the weights of a checkpoint, in evaluation mode.

    Raises:
        CheckpointError: as `recognised_from_file`.
    """
    module = module_from_arch(arch)
    fill(module, recognised_from_file(path).state, str(path))
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
