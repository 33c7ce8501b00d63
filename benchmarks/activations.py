"""Bytes of activations that a training step keeps: ``python benchmarks/activations.py [PLOT.png]`` prints Markdown.

DenseNet-BC with k = 12, depths 40 to 250, 32×32 pixels, both forms. The bytes are those of distinct storages that
autograd saves (saved-tensor hooks) or that a checkpoint holds as its inputs: deterministic, the same on every machine.
Beside them the peak resident memory of one step at batch 16, in a process of its own, above what it held before.
"""

import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

from dnexport.models.densenet import DenseLayer, DenseNet
from dnexport.spec.archs import DenseNetArch

DEPTHS = (40, 70, 100, 130, 160, 190, 220, 250)
BATCH = 16


def network(depth: int, *, memory_efficient: bool) -> DenseNet:
    torch.manual_seed(0)
    arch = DenseNetArch(blocks=((depth - 4) // 6,) * 3, k=12, stem="cifar", init=24, classes=10)
    return DenseNet(arch, memory_efficient=memory_efficient)


def saved_bytes(module: nn.Module, images: torch.Tensor) -> int:
    """Bytes of the distinct storages that stay alive between the forward and the backward pass, parameters aside."""
    parameters = {p.untyped_storage().data_ptr() for p in module.parameters()}
    alive: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            alive[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    def keep_inputs(_: nn.Module, inputs: tuple[list[torch.Tensor]]) -> None:
        for tensor in inputs[0]:
            keep(tensor)

    hooks = [
        layer.register_forward_pre_hook(keep_inputs) for layer in module.modules() if isinstance(layer, DenseLayer)
    ]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        module(images).sum()
    for hook in hooks:
        hook.remove()
    return sum(storage.nbytes() for storage in alive.values())


def peak_megabytes(depth: int, form: str) -> float:
    """One training step in a process of its own."""
    command = [sys.executable, __file__, "--step", str(depth), form]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def step(depth: int, form: str) -> None:
    module = network(depth, memory_efficient=form == "efficient")
    images = torch.randn(BATCH, 3, 32, 32)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew: it is inherited over fork and exec
    before = status("VmRSS")
    module(images).sum().backward()
    print(status("VmHWM") - before)


def status(field: str) -> float:
    """A memory figure of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def plot(rows: list[tuple[int, float, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.add_subplot()
    for index, (label, colour) in enumerate((("plain", "#c2570c"), ("memory-efficient", "#2563c9")), start=1):
        axes.plot([row[0] for row in rows], [row[index] for row in rows], "o-", color=colour, label=label)
    axes.set_xlabel("depth (DenseNet-BC, k = 12)")
    axes.set_ylabel("MB saved an image")
    axes.set_ylim(0)
    axes.grid(color="#dddddd")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    images, rows = torch.randn(1, 3, 32, 32), []
    print("| depth | plain, MB an image | memory-efficient, MB | plain, peak MB at 16 | memory-efficient, peak MB |")
    print("|---|---|---|---|---|")
    for depth in DEPTHS:
        plain, efficient = (saved_bytes(network(depth, memory_efficient=form), images) / 1e6 for form in (False, True))
        rows.append((depth, plain, efficient))
        peaks = [peak_megabytes(depth, form) for form in ("plain", "efficient")]
        print(f"| {depth} | {plain:.1f} | {efficient:.1f} | {peaks[0]:.0f} | {peaks[1]:.0f} |", flush=True)
    if len(sys.argv) > 1:
        plot(rows, Path(sys.argv[1]))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--step"]:
        step(int(sys.argv[2]), sys.argv[3])
    else:
        main()
