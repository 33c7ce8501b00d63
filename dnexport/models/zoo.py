"""Modules by their two sources: a checkpoint file, or a seed. Both can be called in any process."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnexport.data.datasets import synthetic
from dnexport.data.images import input_from_pixels
from dnexport.errors import ArchError, CheckpointError
from dnexport.models.checkpoint import fill, state_from_file
from dnexport.models.condensenet import CondenseNet, converted
from dnexport.models.densenet import DenseNet
from dnexport.models.dpn import Dpn
from dnexport.models.infer import arch_from_state
from dnexport.models.layouts import Layout, layout_from_keys, renamed
from dnexport.models.peleenet import PeleeNet
from dnexport.spec.archs import CondenseNetArch, DenseNetArch, DpnArch, FamilyArch
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.training import CheckpointMetadata

_STATISTICS_IMAGES = 8
# What the parameters of every family's classifier begin with.
_HEAD = "classifier."


def module_from_arch(arch: FamilyArch, *, memory_efficient: bool = False) -> nn.Module:
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
        module: the network with its weights, in evaluation mode.
        arch: what network it is of.
        aside: keys that belong to the file but not to the network, with what they are.
        multi_label: its network answers several questions at once, a sigmoid each.
        assumed: what neither keys nor shapes nor the caller told of the network.
        metadata: what a checkpoint of ours says of itself.
    """

    layout: str
    module: nn.Module
    arch: FamilyArch
    aside: tuple[str, ...] = ()
    multi_label: bool = False
    assumed: tuple[str, ...] = ()
    metadata: CheckpointMetadata | None = None

    def deployed(self) -> "Recognised":
        """In the form that is deployed: a CondenseNet in training form is converted, with equal logits.

        Raises:
            CheckpointError: its condensing is not over.
        """
        if not isinstance(self.module, CondenseNet) or self.module.arch.form == "converted":
            return self
        try:
            module = converted(self.module)
        except ValueError as exc:
            raise CheckpointError(f"a CondenseNet in training form cannot be deployed: {exc}", "train it on") from exc
        return dataclasses.replace(self, module=module, arch=module.arch)


def recognised_from_file(path: Path, arch: FamilyArch | None = None, *, new_head: int | None = None) -> Recognised:
    """Read a checkpoint in any known layout and prove that it fills its network.

    Args:
        path: the file.
        arch: what it must be of; classes and input channels are the checkpoint's. None reads it off the shapes.
        new_head: classes of a fresh classifier, of seed 0, in place of the checkpoint's.

    Raises:
        CheckpointError: unreadable, of no known layout, or not strictly filling the network.
    """
    origin = str(path)
    state, metadata = state_from_file(path)
    if metadata is not None:
        found, layout = metadata.arch, Layout("dnexport", metadata.arch.family, ())
        aside: tuple[str, ...] = ()
    else:
        layout = layout_from_keys(state, origin)
        state, aside = renamed(state, layout, origin)
        found = arch_from_state(layout.family, state, origin)
    if arch is not None:
        # The user's word goes before a reading of shapes, which do not show strides; it must fill as strictly.
        ends: dict[str, Any] = {"channels": found.channels, "classes": found.classes}
        if isinstance(found, CondenseNetArch) and arch.family == found.family:
            ends |= {"form": found.form, "head": found.head}
        found = arch.model_copy(update=ends)
    if new_head is not None:
        found = found.model_copy(update={"classes": new_head})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = module_from_arch(found)
    if new_head is not None:
        fresh = {key: value for key, value in module.state_dict().items() if key.startswith(_HEAD)}
        aside += tuple(f"{key}: replaced by a new head" for key in state if key.startswith(_HEAD))
        state = {key: value for key, value in state.items() if not key.startswith(_HEAD)} | fresh
    fill(module, state, origin)
    # A stride leaves no trace in the weights; the other families have one stem, or stems of different kernels.
    assumed = ("stem",) if isinstance(found, CondenseNetArch) and arch is None and metadata is None else ()
    return Recognised(
        layout.name,
        module.eval(),
        found,
        aside=aside,
        multi_label=layout.multi_label and new_head is None,
        assumed=assumed,
        metadata=metadata,
    )


def module_from_file(path: Path, arch: FamilyArch, *, new_head: bool = False) -> nn.Module:
    """The network to deploy, with the weights of a checkpoint that was recognised as ``arch``, in evaluation mode.

    Raises:
        CheckpointError: as `recognised_from_file`.
    """
    return recognised_from_file(path, arch, new_head=arch.classes if new_head else None).deployed().module


def module_from_seed(arch: FamilyArch, input_size: tuple[int, int], seed: int) -> nn.Module:
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
