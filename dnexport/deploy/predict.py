"""Answer for a few pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnexport.bundle.verify import Bundle

_BEST = 5


class Guess(NamedTuple):
    """One class and its probability."""

    name: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """The likeliest classes of one picture, best first."""

    image: Path
    guesses: tuple[Guess, ...]


def predictions(bundle: Bundle, images: Sequence[Path], target: str | None) -> list[Answer]:
    """Top five of each picture.

    Raises:
        DataError: a picture cannot be decoded.
        UsageError: the bundle has no such target.
        TargetUnavailable: none of its engines runs here.
    """
    with bundle.session(target) as session:
        logits = session(images).astype(np.float64)
    shares = _probabilities(logits, multi_label=bundle.manifest.multi_label)
    names = bundle.manifest.class_names
    return [
        Answer(path, tuple(Guess(names[i], float(row[i])) for i in np.argsort(-row, kind="stable")[:_BEST]))
        for path, row in zip(images, shares, strict=True)
    ]


def _probabilities(logits: np.ndarray, *, multi_label: bool) -> np.ndarray:
    """Softmax over the classes; for multi-label networks a sigmoid each."""
    if multi_label:
        return np.asarray(1 / (1 + np.exp(-logits)))
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))
