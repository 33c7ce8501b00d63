"""Throughput of ``dnexport train`` beside a plain PyTorch loop: ``python benchmarks/training.py [ARCH]``.

Same network, weights, pictures, augmentation, optimizer, autocast and memory format; the plain loop keeps its pictures
normalised in memory and does nothing but train. Blocks of steps alternate, and the figure is the median ratio of
neighbouring blocks. Exit code 1 below `LEAST`.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dnexport.data.datasets import Splits
from dnexport.data.images import input_from_pixels
from dnexport.data.imageset import ImageSet
from dnexport.models.zoo import module_from_arch
from dnexport.spec.archs import arch_from_text
from dnexport.spec.progress import Silent
from dnexport.spec.training import TRAINING_RECIPES
from dnexport.train.job import Job
from dnexport.train.loop import Run, fabric_for

LEAST = 0.97
IMAGES, BLOCKS, STEPS = 2048, 25, 6
RECIPE = TRAINING_RECIPES["cifar+"].model_copy(update={"precision": "bf16", "epochs": 1000})


def pictures() -> ImageSet:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (IMAGES, 32, 32, 3), np.uint8)
    return ImageSet("noise", list(pixels), tuple(generator.integers(0, 10, IMAGES).tolist()), tuple("abcdefghij"))


def ours(job: Job) -> Iterator[None]:
    run = Run(fabric_for(job), job, Silent())
    while True:
        yield from (None for _ in run.steps())


def plain(job: Job) -> Iterator[None]:
    torch.manual_seed(0)
    module = module_from_arch(job.arch).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    images = job.splits.train
    x = torch.from_numpy(input_from_pixels(images.pixels(job.preprocess), job.preprocess))
    y = torch.tensor(images.labels)
    pad = RECIPE.shift
    while True:
        for chosen in torch.randperm(len(x)).split(RECIPE.batch):
            batch = nn.functional.pad(x[chosen], (pad,) * 4)
            offsets = torch.randint(0, 2 * pad + 1, (len(chosen), 2)).tolist()
            batch = torch.stack([p[:, t : t + 32, s : s + 32] for p, (t, s) in zip(batch, offsets, strict=True)])
            mirrored = torch.rand(len(chosen)) < 0.5
            batch = torch.where(mirrored[:, None, None, None], batch.flip(3), batch)
            with torch.autocast("cpu", torch.bfloat16):
                loss = nn.functional.cross_entropy(
                    module(batch.contiguous(memory_format=torch.channels_last)), y[chosen]
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield


def seconds(steps: Iterator[None]) -> float:
    began = time.perf_counter()
    for _ in range(STEPS):
        next(steps)
    return time.perf_counter() - began


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else "densenet-bc-40-12"
    arch = arch_from_text(name).model_copy(update={"classes": 10})
    images = pictures()
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            arch,
            name,
            Splits(images, images),
            arch.preprocess,
            RECIPE,
            Path(folder) / "w.safetensors",
            accelerator="cpu",
        )
        loops = {"dnexport train": ours(job), "plain loop": plain(job)}
        for loop in loops.values():
            seconds(loop)
        times = [{label: seconds(loop) for label, loop in loops.items()} for _ in range(BLOCKS)]
    rates = {label: STEPS * RECIPE.batch / statistics.median(t[label] for t in times) for label in loops}
    ratios = sorted(t["plain loop"] / t["dnexport train"] for t in times)
    ratio = statistics.median(ratios)
    print("| network | dnexport train, img/s | plain loop, img/s | ratio (median of blocks) | blocks' 25–75 % |")
    print("|---|---|---|---|---|")
    quarter = len(ratios) // 4
    print(
        f"| {name} | {rates['dnexport train']:.0f} | {rates['plain loop']:.0f} | {ratio:.3f} "
        f"| {ratios[quarter]:.3f}–{ratios[-quarter - 1]:.3f} |"
    )
    sys.exit(ratio < LEAST)


if __name__ == "__main__":
    main()
