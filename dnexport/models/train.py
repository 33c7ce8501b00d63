"""Train a DenseNet: SGD with Nesterov momentum over one cycle of the learning rate, on Lightning Fabric.

The reported accuracy is the last weights' on the held-out part, never the best seen on it.
"""

import functools
import json
import logging
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from lightning_fabric import Fabric
from safetensors.torch import save
from torch import Tensor, nn

from dnexport.data.datasets import ImageSet, Splits
from dnexport.data.images import input_from_pixels
from dnexport.errors import BuildFailed
from dnexport.models.checkpoint import METADATA_KEY
from dnexport.models.zoo import module_from_arch
from dnexport.spec.archs import AnyArch
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.progress import Progress
from dnexport.spec.record import write_atomically
from dnexport.spec.training import CheckpointMetadata, TrainingRecipe


@dataclass(frozen=True)
class Trained:
    """What training gave.

    Attributes:
        path: the checkpoint.
        metadata: as stored in it.
        seconds: of training and testing.
    """

    path: Path
    metadata: CheckpointMetadata
    seconds: float


def train(
    arch: AnyArch,
    arch_name: str | None,
    splits: Splits,
    preprocess: Preprocess,
    recipe: TrainingRecipe,
    path: Path,
    progress: Progress,
) -> Trained:
    """Train on ``splits.train``, test on ``splits.test``, write a ``.safetensors`` with all that a build needs.

    Raises:
        BuildFailed: the loss is not finite.
        DataError: an image cannot be decoded.
        StorageError: the checkpoint cannot be written.
    """
    began = time.monotonic()
    logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
    fabric = Fabric(accelerator="auto", devices=1, precision=_precision(recipe))
    fabric.seed_everything(recipe.seed, verbose=False)
    progress.start(f"train on {len(splits.train)} images of {splits.train.name}")
    module = _fit(
        fabric,
        module_from_arch(arch, memory_efficient=recipe.memory_efficient),
        splits.train,
        preprocess,
        recipe,
        progress,
    )
    top1 = _top1(fabric, module, splits.test, preprocess)
    metadata = CheckpointMetadata(
        arch=arch,
        arch_name=arch_name,
        preprocess=preprocess,
        class_names=splits.train.classes,
        data=splits.train.name,
        training=recipe,
        test_top1=top1,
        test_images=len(splits.test),
    )
    state = {key: value.detach().cpu().contiguous() for key, value in module.state_dict().items()}
    write_atomically(path, save(state, metadata={METADATA_KEY: json.dumps(metadata.model_dump(mode="json"))}))
    seconds = time.monotonic() - began
    progress.finish(seconds, reused=False)
    return Trained(path, metadata, seconds)


def _fit(
    fabric: Fabric,
    module: nn.Module,
    images: ImageSet,
    preprocess: Preprocess,
    recipe: TrainingRecipe,
    progress: Progress,
) -> nn.Module:
    x = torch.from_numpy(input_from_pixels(images.pixels(preprocess), preprocess))
    y = torch.tensor(images.labels)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.SGD(
        module.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    # A last batch of one image would have no batch statistics; the rest is dropped and meets the next epoch's order.
    steps = len(x) // recipe.batch
    cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(one_cycle, total=recipe.epochs * steps))
    wrapped, fabric_optimizer = fabric.setup(module.to(memory_format=torch.channels_last), optimizer)  # type: ignore[call-overload]
    criterion = nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing)
    wrapped.train()
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(x), generator=generator)
        for step in range(steps):
            chosen = order[step * recipe.batch : (step + 1) * recipe.batch]
            batch = fabric.to_device(
                _augmented(x[chosen], recipe, generator).contiguous(memory_format=torch.channels_last)
            )
            loss = criterion(wrapped(batch), fabric.to_device(y[chosen]))
            if not torch.isfinite(loss):
                raise BuildFailed(
                    f"the loss is not finite in epoch {epoch + 1}, step {step + 1}", "lower --learning-rate"
                )
            fabric_optimizer.zero_grad()
            fabric.backward(loss)
            fabric_optimizer.step()
            cycle.step()
            progress.advance(epoch * steps + step + 1, recipe.epochs * steps)
    return module


def one_cycle(step: int, total: int) -> float:
    """Share of the highest learning rate: a fifth of the steps up in a line, the rest down a half cosine to zero."""
    rise = max(1, total // 5)
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise + 1) / (total - rise + 1)))


def _augmented(x: Tensor, recipe: TrainingRecipe, generator: torch.Generator) -> Tensor:
    """Each picture shifted by its own random offset, and half of them mirrored."""
    if recipe.mirror:
        flips = torch.rand(len(x), generator=generator) < 0.5
        x = torch.where(flips[:, None, None, None], x.flip(3), x)
    if recipe.shift:
        height, width = x.shape[2:]
        padded = nn.functional.pad(x, (recipe.shift,) * 4, mode="replicate")
        offsets = torch.randint(0, 2 * recipe.shift + 1, (len(x), 2), generator=generator).tolist()
        x = torch.stack(
            [p[:, top : top + height, left : left + width] for p, (top, left) in zip(padded, offsets, strict=True)]
        )
    return x


def _top1(fabric: Fabric, module: nn.Module, images: ImageSet, preprocess: Preprocess) -> float:
    module.eval()
    right, done = 0, 0
    with torch.inference_mode():
        for pixels in images.batches(preprocess, 64):
            logits = module(fabric.to_device(torch.from_numpy(input_from_pixels(pixels, preprocess))))
            labels = np.asarray(images.labels[done : done + len(pixels)])
            right += int((logits.argmax(1).cpu().numpy() == labels).sum())
            done += len(pixels)
    return right / done


def _precision(recipe: TrainingRecipe) -> Literal["bf16-mixed", "32-true"]:
    if recipe.precision == "auto":
        fast = torch.cuda.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
        return "bf16-mixed" if fast else "32-true"
    return "bf16-mixed" if recipe.precision == "bf16" else "32-true"
