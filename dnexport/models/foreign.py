"""Networks that are not of the family: any ``torch.nn.Module``, made by a function of the user's."""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dnexport.errors import ArchError
from dnexport.models.checkpoint import fill, state_from_file
from dnexport.spec.archs.opaque import ModuleArch


def module_from_factory(factory: str, *, seed: int = 0, weights: Path | None = None) -> nn.Module:
    """Call ``package.module:callable``, looked for in the working directory too, under a seed.

    Args:
        factory: takes no arguments.
        seed: of PyTorch's random numbers meanwhile, so that the same weights come each time.
        weights: a checkpoint to fill the module with, strictly, under the module's own names; None keeps the factory's.

    Raises:
        ArchError: it cannot be imported or called, or gives no module.
        CheckpointError: the weights do not fit.
    """
    made = _factory(factory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = made()
        except Exception as exc:  # the user's code may raise anything
            raise ArchError(f"model {factory} failed: {_line(exc)}", "make it callable without arguments") from exc
    if not isinstance(module, nn.Module):
        what = f"gives a {type(module).__name__}, not a torch.nn.Module"
        raise ArchError(f"model {factory} {what}", "name a function that returns the module")
    if weights is not None:
        fill(module, state_from_file(weights, own=module.state_dict())[0], str(weights))
    return module.eval()


def arch_from_factory(factory: str, module: nn.Module, input_size: tuple[int, int]) -> tuple[ModuleArch, str]:
    """What a module is, by running it once; and the digest of what it answered on this machine.

    Raises:
        ArchError: it does not run, or gives no [images, classes].
    """
    first = next((m for m in module.modules() if isinstance(m, nn.Conv2d)), None)
    channels = first.in_channels if first is not None else 3
    try:
        images = torch.rand(2, channels, *input_size, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            logits = module(images)
    except Exception as exc:  # the user's code may raise anything
        size = f"[2, {channels}, {input_size[0]}, {input_size[1]}]"
        raise ArchError(f"model {factory} fails on an input of {size}: {_line(exc)}", "set --input-size") from exc
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 2:
        got = f"a tensor of {list(logits.shape)}" if isinstance(logits, torch.Tensor) else f"a {type(logits).__name__}"
        raise ArchError(f"model {factory} gives {got} for 2 images, not [2, classes]", "wrap it so that it does")
    counted = sum(p.numel() for p in module.parameters() if p.requires_grad)
    arch = ModuleArch(
        factory=factory, code=_code_digest(factory, module), counted=counted, channels=channels, classes=logits.shape[1]
    )
    return arch, hashlib.sha256(logits.numpy().tobytes()).hexdigest()


def state_digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and values of a module's parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _factory(text: str) -> Callable[[], Any]:
    package, _, name = text.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(package)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as exc:  # the user's code may raise anything
        raise ArchError(
            f"model {text} cannot be imported: {_line(exc)}", "write --model package.module:function"
        ) from exc
    if not callable(found):
        raise ArchError(f"model {text} is a {type(found).__name__}", "name a function that returns the module")
    return found  # type: ignore[no-any-return]


def _code_digest(factory: str, module: nn.Module) -> str:
    digest = hashlib.sha256()
    for file in sorted(set(_sources(_factory(factory), module))):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _sources(factory: Callable[[], Any], module: nn.Module) -> Iterator[Path]:
    torchs = Path(torch.__file__).parent
    things: tuple[Any, ...] = (factory, *{type(m) for m in module.modules()})
    for thing in things:
        try:
            file = inspect.getsourcefile(thing)
        except TypeError:  # built in
            continue
        if file is not None and Path(file).is_file() and torchs not in Path(file).parents:
            yield Path(file)


def _line(exc: Exception) -> str:
    return f"{type(exc).__name__}: {(str(exc).strip().splitlines() or ['no message'])[0]}"
