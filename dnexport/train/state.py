"""What survives between epochs: one file, written whole or not at all.

Order, augmentation and dropout follow from the seed and the epoch's number alone, so a training that is resumed needs
weights, momentum, averages and that number, and goes on to the same bits.
"""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dnexport.errors import CheckpointError, UsageError
from dnexport.spec.archs import FamilyArch
from dnexport.spec.record import digest_from_json, write_atomically
from dnexport.spec.training import EpochRow, TrainingRecipe

SCHEMA = 1


@dataclass(frozen=True)
class Identity:
    """What must be the same for a training to go on.

    Attributes:
        arch: the network.
        recipe: how it is trained.
        data: digest of the training part.
    """

    arch: FamilyArch
    recipe: TrainingRecipe
    data: str

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "schema": SCHEMA,
            "arch": self.arch.model_dump(mode="json"),
            "recipe": self.recipe.model_dump(mode="json"),
            "data": self.data,
        }

    def digest(self) -> str:
        """SHA-256 of it."""
        return digest_from_json(self.document())


@dataclass(frozen=True)
class State:
    """A training between two epochs.

    Attributes:
        history: a row for every epoch that is over.
        tensors: state dicts by what they are of.
    """

    history: tuple[EpochRow, ...]
    tensors: dict[str, Any]


def save_state(path: Path, identity: Identity, state: State) -> None:
    """Replace the state file.

    Raises:
        OSError: as the file system says; the former state stays.
    """
    content = io.BytesIO()
    rows = [row.model_dump(mode="json") for row in state.history]
    torch.save({"identity": json.dumps(identity.document()), "history": json.dumps(rows), **state.tensors}, content)
    write_atomically(path, content.getvalue())


def load_state(path: Path, identity: Identity) -> State:
    """Read a state that the same training wrote.

    Raises:
        CheckpointError: unreadable.
        UsageError: it is of another training; the differences are named.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found = json.loads(content.pop("identity"))
        history = tuple(EpochRow.model_validate(row) for row in json.loads(content.pop("history")))
    except Exception as exc:  # a damaged file can make the unpickler raise anything
        remedy = "remove it and train from the start"
        raise CheckpointError(f"training state {path} is damaged or of another version", remedy) from exc
    wanted = identity.document()
    if found != wanted:
        raise UsageError(
            f"training state {path} is of another training ({'; '.join(_differences(found, wanted))})",
            "resume with what it was started with, or remove it",
        )
    return State(history, content)


def _differences(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for name in sorted({*found, *wanted}):
        mine, theirs = found.get(name), wanted.get(name)
        if isinstance(mine, dict) and isinstance(theirs, dict):
            lines += _differences(mine, theirs, f"{prefix}{name}.")
        elif mine != theirs:
            lines.append(f"{prefix}{name} was {_short(mine)}, is {_short(theirs)}")
    return lines


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:12].rstrip('"') + "…"
