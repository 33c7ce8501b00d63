"""Answer for a few pictures, in a worker."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dnexport.bundle.verify import Bundle
from dnexport.data.images import input_from_pixels, pixels_from_file
from dnexport.deploy.compile import probe_worker, session_options
from dnexport.errors import TargetUnavailable, UsageError
from dnexport.measure.latency import Probe
from dnexport.runtimes.registry import open_session, runtime_for
from dnexport.spec.record import nearest
from dnexport.spec.target import Target

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
    chosen = runnable_target(bundle, target)
    preprocess = bundle.manifest.preprocess
    pixels = np.stack([pixels_from_file(path, preprocess) for path in images])
    engine = bundle.engine(str(chosen))
    assert engine is not None
    options = session_options(bundle.manifest.recipe.precision, chosen)
    with probe_worker(f"running {chosen}", chosen, options.threads) as worker:
        worker.create(Probe, functools.partial(open_session, engine, chosen, options), np.empty((0,), np.float32))
        parts = worker.method("logits", input_from_pixels(pixels, preprocess), bundle.manifest.recipe.profile.max_batch)
    logits = np.concatenate(parts).astype(np.float64)
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


def runnable_target(bundle: Bundle, name: str | None) -> Target:
    """The named target of a bundle, or the first whose engine runs on this machine.

    Raises:
        UsageError: the bundle has no engine for that name.
        TargetUnavailable: it, or every one, cannot run here.
    """
    built = [target for target in bundle.reports if bundle.engine(target) is not None]
    if name is not None:
        text = str(Target.parse(name))
        if text not in built:
            raise UsageError(f"bundle {bundle.path} has no engine for '{name}'", nearest(text, built))
        built = [text]
    refused = []
    for text in built:
        target = Target.parse(text)
        availability = runtime_for(target).runs(target)
        if availability.usable:
            return target
        refused.append(f"{text}: {availability.reason}")
    raise TargetUnavailable(
        f"no engine of bundle {bundle.path} runs here ({'; '.join(refused) or 'it has none'})", "see 'dnexport doctor'"
    )
