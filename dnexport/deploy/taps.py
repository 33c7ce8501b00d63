"""Look inside of an engine that answers wrongly: the first block whose values diverge from those the build recorded."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dnexport.data.images import Fed
from dnexport.deploy.compile import compile_target
from dnexport.deploy.engine import Engine
from dnexport.runtimes.contract import BuildOptions
from dnexport.runtimes.scratch import scratch
from dnexport.runtimes.taps import sampled, tapped
from dnexport.spec.check import Tap


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
        again = Engine(engine.target, compiled.engine, engine.precision, engine.input_type)
        with again.probe("tapping") as worker:
            values: dict[str, np.ndarray] = worker.method("values", images)
    return tuple(Tap(name=name, snr_db=_snr_db(recorded[name], sampled(values[name]))) for name in recorded)


def _snr_db(recorded: np.ndarray, found: np.ndarray) -> float | None:
    """Of values about their mean; None where they are equal."""
    reference = recorded.astype(np.float64)
    noise = float(np.square(found - reference).sum())
    signal = float(np.square(reference - reference.mean()).sum())
    if noise == 0:
        return None
    return float(10 * np.log10(max(signal, np.finfo(float).tiny) / noise)) if np.isfinite(noise) else -np.inf
