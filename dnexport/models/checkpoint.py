"""Load weights strictly: every parameter is filled and every key used, or the difference is shown and nothing loads.

Reads ``.safetensors`` and PyTorch files (``weights_only``: a pickle that would run code is refused), unwraps what
people wrap state dicts in, and strips the prefixes that wrappers of modules leave; `layouts` then brings the keys to
our names.
"""

import json
import pickle
import pickletools
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dnexport.errors import CheckpointError
from dnexport.spec.training import CheckpointMetadata

METADATA_KEY = "dnexport"

_WRAPPERS = ("state_dict", "model_state_dict", "state_dict_ema", "ema", "model", "net")
_DEEPEST_WRAPPING = 8
_PREFIXES = ("module.", "model.", "backbone.", "_orig_mod.")
# A file larger than this is no checkpoint of the family: the largest, DPN-107, has 350 MB and twice that with momentum.
_LARGEST_BYTES = 4 << 30


def state_from_file(path: Path, own: Collection[str] = ()) -> tuple[dict[str, Tensor], CheckpointMetadata | None]:
    """Read a state dict, unwrapped and without prefixes, and what a checkpoint of ours says of itself.

    Args:
        path: of the file.
        own: names of the module that it is for: what begins them is no prefix.

    Raises:
        CheckpointError: missing, truncated, not a checkpoint, or a pickle with code.
    """
    if not path.is_file():
        what = "is a directory" if path.is_dir() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {what}", "give a .pt, .pth, .tar or .safetensors file")
    if (size := path.stat().st_size) > _LARGEST_BYTES:
        raise CheckpointError(
            f"checkpoint {path} has {size / 1e9:.1f} GB, more than any network of the family", "give its weights alone"
        )
    if path.suffix.lower() == ".safetensors":
        state, metadata = _read_safetensors(path)
    else:
        state, metadata = _read_torch(path), None
    return _without_prefix(state, own), metadata


def fill(module: nn.Module, state: Mapping[str, Tensor], origin: str) -> None:
    """Copy a state dict into a module, strictly both ways.

    Raises:
        CheckpointError: a key is missing or left over, a shape differs, or a value is not finite.
    """
    own = {key: value for key, value in module.state_dict().items() if not key.endswith("num_batches_tracked")}
    given = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    _check_keys(own, given, origin)
    _check_values(own, given, origin)
    module.load_state_dict({**module.state_dict(), **given})


def _check_keys(own: Mapping[str, Tensor], given: Mapping[str, Tensor], origin: str) -> None:
    missing, left_over = sorted(own.keys() - given.keys()), sorted(given.keys() - own.keys())
    if missing or left_over:
        parts = []
        if missing:
            parts.append(f"lacks {_first(missing)}")
        if left_over:
            parts.append(f"has {_first(left_over)} that the arch does not")
        raise CheckpointError(f"checkpoint {origin} {' and '.join(parts)}", "name the --arch that it was trained with")


def _check_values(own: Mapping[str, Tensor], given: Mapping[str, Tensor], origin: str) -> None:
    for key, value in given.items():
        if value.shape != own[key].shape:
            raise CheckpointError(
                f"checkpoint {origin} has {key} of {list(value.shape)}, the arch wants {list(own[key].shape)}",
                "name the --arch that it was trained with",
            )
        if own[key].is_floating_point() != value.is_floating_point():
            raise CheckpointError(
                f"checkpoint {origin} has {key} of type {value.dtype}, not {own[key].dtype}",
                "give the weights before quantization",
            )
        # As they will be held: what overflows float32 is found here too.
        held = value.to(own[key].dtype)
        wrong = ~torch.isfinite(held) if held.is_floating_point() else (held < 0) | (held > own[key].max())
        if key.endswith("running_var"):
            wrong |= held < 0
        if wrong.any():
            what = "not finite" if held.is_floating_point() else "no channels of the network"
            what = "negative variances" if torch.isfinite(held[wrong]).all() and held.is_floating_point() else what
            raise CheckpointError(
                f"checkpoint {origin} has {int(wrong.sum())} values in {key} that are {what}",
                "take an earlier checkpoint; the training diverged or the file is damaged",
            )


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], CheckpointMetadata | None]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError) as exc:
        raise CheckpointError(
            f"checkpoint {path} is truncated or no safetensors file", "download or copy it again"
        ) from exc
    if text is None:
        return state, None
    try:
        return state, CheckpointMetadata.model_validate(json.loads(text))
    except (ValidationError, ValueError, RecursionError) as exc:
        raise CheckpointError(
            f"checkpoint {path} has metadata that this version does not understand",
            "write it again with this version's 'dnexport train'",
        ) from exc


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            # PyTorch warns of pickle protocols that it may not know; what it does not know it refuses.
            warnings.simplefilter("ignore")
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as exc:  # a damaged file can make the unpickler raise anything
        if "torchxrayvision" in str(exc):
            raise CheckpointError(
                f"checkpoint {path} is torchxrayvision's pickled whole module, which would run code when loaded",
                "where torchxrayvision is installed, save torchxrayvision.models.DenseNet(weights=NAME).state_dict() "
                "with torch.save and give that",
            ) from exc
        if (isinstance(exc, pickle.UnpicklingError) and "GLOBAL" in str(exc)) or _names_code(path):
            raise CheckpointError(
                f"checkpoint {path} is a pickle that would run code when loaded, and is refused",
                "save its state_dict() with torch.save and give that",
            ) from exc
        remedy = "download or copy it again"
        raise CheckpointError(f"checkpoint {path} is truncated or no PyTorch file", remedy) from exc
    return _unwrapped(content, path)


def _names_code(path: Path) -> bool:
    """Whether a file is a whole pickle that refers to functions, by opcodes that PyTorch's unpickler may not know."""
    try:
        names = {opcode.name for opcode, _, _ in pickletools.genops(path.read_bytes())}
    except Exception:  # no pickle
        return False
    return bool(names & {"GLOBAL", "STACK_GLOBAL", "INST"})


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(_DEEPEST_WRAPPING):
        if not isinstance(content, Mapping):
            break
        if content and all(isinstance(value, Tensor) for value in content.values()):
            return _dense(content, path)
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    held = (
        f"the keys {_first(sorted(map(str, content)))}"
        if isinstance(content, Mapping)
        else f"a {type(content).__name__}"
    )
    raise CheckpointError(f"checkpoint {path} holds {held}, not a state dict", "save model.state_dict() and give that")


def _dense(state: Mapping[Any, Tensor], path: Path) -> dict[str, Tensor]:
    """Refuse keys that are no names, and tensors without plain values."""
    for key, value in state.items():
        if not isinstance(key, str):
            raise CheckpointError(f"checkpoint {path} has the key {key!r}, which is no name", "save model.state_dict()")
        if value.layout is not torch.strided or value.device.type != "cpu":
            raise CheckpointError(
                f"checkpoint {path} has {key} as a {value.layout} tensor on {value.device}", "save plain tensors"
            )
    return dict(state)


def _without_prefix(state: dict[str, Tensor], own: Collection[str] = ()) -> dict[str, Tensor]:
    for _ in range(_DEEPEST_WRAPPING):
        if not set(own).isdisjoint(state):
            break
        prefix = next((p for p in _PREFIXES if state and all(key.startswith(p) for key in state)), None)
        if prefix is None:
            break
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _first(names: list[str]) -> str:
    shown = ", ".join(names[:3])
    return f"{shown} and {len(names) - 3} more keys" if len(names) > 3 else shown
