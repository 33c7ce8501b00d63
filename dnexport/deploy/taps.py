"""Look inside of an engine that answers wrongly: the first block whose values diverge from those the build recorded."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dnexport.data.images import Fed
from dnexport.deploy.compile import compile_target
from dnexport.deploy.engine import Engine
from dnexport.measure.accuracy import NOT_FINITE_DB
from dnexport.runtimes.arrays import whole_batches
from dnexport.runtimes.contract import BuildOptions
from dnexport.runtimes.scratch import scratch
from dnexport.runtimes.taps import sampled, tapped
from dnexport.spec.check import Tap
from dnexport.spec.profile import Profile


def taps_of_engine(
    engine: Engine, graph: Path, images: Fed, recorded: Mapping[str, np.ndarray], options: BuildOptions
) -> tuple[Tap, ...]:
    """How near an engine is to what the build recorded, at each tap, in the order of the graph.

    Args:
        engine: that answers wrongly.
        graph: the lowered graph it was built from.
        images: fed.
        recorded: by tap, float32 [images, values], as `sampled` makes them.
        options: it was built with.

    Raises:
        DnexportError: the tapped graph is refused, or crashes its worker.
    """
    with scratch() as folder:
        source = folder / "tapped.onnx"
        source.write_bytes(tapped(graph.read_bytes(), list(recorded)))
        compiled = compile_target(source, folder, engine.target, options)
        again = dataclasses.replace(engine, file=compiled.engine)
        with again.probe("tapping") as worker:
            parts = [worker.method("values", part) for part in _queries(images, options.profile)]
    values = {name: np.concatenate([part[name] for part in parts])[: len(images)] for name in recorded}
    return tuple(Tap(name=name, snr_db=_snr_db(recorded[name], sampled(values[name]))) for name in recorded)


def _queries(images: Fed, profile: Profile) -> list[Fed]:
    """The images in queries that the engine takes; the last is filled up."""
    batch = min(max(len(images), profile.min_batch), profile.max_batch)
    whole = whole_batches(images, batch)
    return [whole[start : start + batch] for start in range(0, len(whole), batch)]


def _snr_db(recorded: np.ndarray, found: np.ndarray) -> float | None:
    """Of values about their mean; None where they are equal."""
    reference = recorded.astype(np.float64)
    noise = float(np.square(found - reference).sum())
    signal = float(np.square(reference - reference.mean()).sum())
    if noise == 0:
        return None
    if not np.isfinite(noise):
        return NOT_FINITE_DB
    return max(NOT_FINITE_DB, float(10 * np.log10(max(signal, np.finfo(float).tiny) / noise)))
