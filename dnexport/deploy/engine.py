"""An engine and what is needed to open it, in a worker of its own."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dnexport.bundle.verify import Bundle
from dnexport.data.images import Fed
from dnexport.measure.latency import Probe
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.registry import open_session, runtime_for, session_options
from dnexport.spec.metrics import Census, PartCensus, TargetReport
from dnexport.spec.precision import Precision
from dnexport.spec.preprocess import InputType
from dnexport.spec.recipe import Recipe, StandIn
from dnexport.spec.target import Target


@dataclass(frozen=True)
class Engine:
    """An engine file.

    Attributes:
        target: what runs it.
        file: where it lies.
        precision: asked for.
        input_type: what it is fed.
        macs: multiply-adds an image of its convolutions, by name, as far as they are known.
        parts: of the network in its graph, as far as they are known.
        allowed: what a CPU may execute in place of the float that was asked for.
    """

    target: Target
    file: Path
    precision: Precision
    input_type: InputType = "float32"
    macs: Mapping[str, int] = field(default_factory=dict)
    parts: tuple[PartCensus, ...] = ()
    allowed: tuple[StandIn, ...] = ()

    @contextlib.contextmanager
    def probe(
        self,
        label: str,
        images: Fed | None = None,
        threads: int | None = None,
        *,
        cuda_graph: bool = True,
        batch: int = 1,
        parked: bool = False,
    ) -> Iterator[Worker]:
        """A worker that holds a `Probe` of this engine.

        Args:
            label: what the worker does, for messages: ``running`` or ``measuring``.
            images: that blocks of queries take in turn; none where only logits are asked for.
            threads: of the runtime; all where it is None.
            cuda_graph: launch a query as one CUDA graph where the runtime has them.
            batch: images of the query that the session prepares for when it opens.
            parked: the worker is stopped whenever it is not answering a call.

        Raises:
            TargetUnavailable: the runtime is not here.
            BuildFailed: it refuses the engine.
            WorkerCrashed: it crashes.
        """
        options = session_options(self.precision, self.target, self.allowed, threads=threads, batch=batch)
        options = dataclasses.replace(options, cuda_graph=cuda_graph)
        gpu = self.target.device == "cuda"
        environment = runtime_for(self.target).environment(self.target)
        with Worker(f"{label} {self.target}", env=environment, parked=parked) as worker:
            worker.create(Probe, functools.partial(open_session, self.file, self.target, options), images, gpu)
            yield worker


def engine_from_bundle(bundle: Bundle, target: Target) -> Engine:
    """The engine that a bundle has of a target; it must have one."""
    file = bundle.engine(str(target))
    assert file is not None
    return engine_from_report(bundle.reports[str(target)], file, bundle.manifest.recipe)


def engine_from_report(report: TargetReport, file: Path, recipe: Recipe) -> Engine:
    """An engine file of the target that a report is of."""
    census = report.census or Census(operators={}, conv_macs_by_precision={})
    return engine_from_census(Target.parse(report.target), file, recipe, census)


def engine_from_census(target: Target, file: Path, recipe: Recipe, census: Census) -> Engine:
    """An engine file that a recipe asked for, and what was counted of its graph."""
    return Engine(target, file, recipe.precision, recipe.input, census.conv_macs, census.parts, recipe.allow_execution)
