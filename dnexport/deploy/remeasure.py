"""Measure and validate a finished bundle again; the bundle itself does not change."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dnexport.bundle.session import runnable_target
from dnexport.bundle.verify import Bundle
from dnexport.data.datasets import held_out_images, splits_from_source
from dnexport.data.disjoint import check_disjoint
from dnexport.data.imageset import ImageSet
from dnexport.deploy.bench import bench_images, measure_engines
from dnexport.deploy.engine import engine_from_bundle
from dnexport.deploy.known_bad import package_of
from dnexport.deploy.validate import (
    Samples,
    Validated,
    fed_from_images,
    samples_from_images,
    samples_from_pixels,
    validate_engine,
)
from dnexport.errors import TargetUnavailable, UsageError
from dnexport.measure.budgets import judgements
from dnexport.measure.environment import environment, package_versions
from dnexport.measure.latency import Probe
from dnexport.runtimes.contract import Executed
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.registry import runtime_for
from dnexport.runtimes.torch_eager import EAGER, TorchSession
from dnexport.spec.budget import Budget, Judgement, budgets_from_texts
from dnexport.spec.latency import Benchmark
from dnexport.spec.metrics import TargetReport
from dnexport.spec.progress import Progress
from dnexport.spec.recipe import MULTI_STREAM_BATCH, Bench
from dnexport.spec.target import Target


def measure_bundle(
    bundle: Bundle, target: str | None, bench: Bench, factory: Callable[[], Any] | None, progress: Progress
) -> dict[str, Benchmark]:
    """Latency of a bundle's engines that run here, on its golden images.

    Args:
        bundle: verified.
        target: one of its targets; None for all that run here.
        bench: rounds, block length, batch.
        factory: makes the bundle's PyTorch module in a worker; None where it cannot be had here.
        progress: told of the rounds.

    Raises:
        UsageError: no such target in the bundle, or a batch outside of its profile.
        TargetUnavailable: none of its engines runs here.
    """
    profile = bundle.manifest.recipe.profile
    for batch in (bench.batch, *((MULTI_STREAM_BATCH,) if "multi-stream" in bench.scenarios else ())):
        if not profile.holds(batch):
            raise UsageError(
                f"batch {batch} lies outside of the batches {profile} that bundle {bundle.path} is built for",
                "give a batch within, or build again with --batch",
            )
    engines = [engine_from_bundle(bundle, each) for each in _runnable(bundle, target)]
    if factory is None:
        progress.warn("PyTorch or the bundle's weights are not here: latency is measured without a reference")
    images = bench_images(bundle.golden().images, bundle.manifest.preprocess, bench, profile)
    progress.start("bench")
    began = time.monotonic()
    measured = measure_engines(engines, factory, images, bench, progress.advance)
    progress.finish(time.monotonic() - began, reused=False)
    return {str(t): benchmark for t, benchmark in measured.items()}


def validate_bundle(
    bundle: Bundle, target: str | None, data: str | None, factory: Callable[[], Any] | None, progress: Progress
) -> dict[str, Validated]:
    """Accuracy of a bundle's engines that run here.

    Args:
        bundle: verified.
        target: one of its targets; None for all that run here.
        data: a data source, whose test part is used with PyTorch as the reference; None for the golden samples.
        factory: makes the bundle's PyTorch module in a worker; needed with ``data``.
        progress: told of each target.

    Raises:
        ParityFailed: an engine is not the network.
        DataError: the data cannot be read or have other classes.
        TargetUnavailable: no engine runs here, or PyTorch is needed and not here.
    """
    samples = _samples_from_data(bundle, data, factory) if data else golden_samples(bundle)
    found = {}
    for each in _runnable(bundle, target):
        progress.start(f"validate:{each}")
        began = time.monotonic()
        graph = bundle.path / "model.onnx"
        found[str(each)] = validate_engine(engine_from_bundle(bundle, each), graph, samples, progress.advance)
        progress.finish(time.monotonic() - began, reused=False)
    return found


def required_again(bundle: Bundle, require: Sequence[str] | None) -> tuple[Budget, ...]:
    """The budgets in their string form; where there are none, those of the bundle's recipe.

    Raises:
        UsageError: a budget that cannot be read, or two of one metric.
    """
    return budgets_from_texts(require or bundle.manifest.recipe.require)


def reports_now(bundle: Bundle, measured: Mapping[str, Mapping[str, object]]) -> dict[str, TargetReport]:
    """What is known of engines on this machine: what was measured now, the rest as it was measured on one like it.

    What was measured on another machine, or with another version of the runtime, is left out.

    Args:
        bundle: verified.
        measured: by target, fields of its report.
    """
    here, versions = environment().hardware_digest, package_versions()
    found = {}
    for name, fields in measured.items():
        earlier, known = bundle.reports[name], dict(fields)
        package = package_of(Target.parse(name))
        known_version = (earlier.built_with or bundle.manifest.environment.versions).get(package)
        if earlier.measured_on != here or known_version != versions.get(package):
            update = {**dict.fromkeys(("accuracy", "cross_check", "benchmark")), "notes": ()}
            earlier = earlier.model_copy(update=update)
            known = known if "proof" in known else {**known, **_executed(bundle, name)}
        found[name] = earlier.model_copy(update={**known, "measured_on": here})
    return found


def _executed(bundle: Bundle, name: str) -> dict[str, object]:
    """What an engine executes here, as fields of its report."""
    engine = engine_from_bundle(bundle, Target.parse(name))
    with engine.probe("running") as worker:
        executed: Executed = worker.method("executed", engine.macs)
    return {"executed_precision": executed.execution, "proof": executed.proof}


def judged_again(budgets: Sequence[Budget], reports: Mapping[str, TargetReport]) -> list[Judgement]:
    """Budgets on `reports_now`."""
    return [each for report in reports.values() for each in judgements(budgets, report)]


def _samples_from_data(bundle: Bundle, data: str, factory: Callable[[], Any] | None) -> Samples:
    manifest = bundle.manifest
    if factory is None:
        raise TargetUnavailable(
            "validating on other data needs PyTorch and the bundle's weights as the reference",
            "drop --data to validate on the golden samples",
        )
    test = judging_images(bundle, data)
    test.check_classes(manifest.class_names, multi_label=manifest.multi_label)
    if (table := bundle.calibration_table()) is not None:
        check_disjoint(table, test, manifest.preprocess)
    with Worker("running PyTorch") as worker:
        worker.create(Probe, functools.partial(TorchSession, factory, EAGER))
        batches = fed_from_images(test, manifest.preprocess, "float32")
        reference = np.concatenate([part for images in batches for part in worker.method("logits", images, 32)])
    profile = manifest.recipe.profile
    return samples_from_images(
        test,
        manifest.preprocess,
        reference,
        profile,
        batch=profile.max_batch,
        trained=manifest.weights.trained,
        multi_label=manifest.multi_label,
    )


def judging_images(bundle: Bundle, data: str) -> ImageSet:
    """The held-out part of the data, or all of a folder without parts; of the one that the bundle was built from, the
    part that was held out then."""
    test, golden = held_out_images(data), bundle.manifest.golden
    if Path(test.name).resolve() == Path(golden.source).resolve() and test.digest() != golden.test_digest:
        held_out = splits_from_source(data).test
        return held_out if held_out.digest() == golden.test_digest else test
    return test


def golden_samples(bundle: Bundle) -> Samples:
    """The samples that travel with a bundle."""
    golden, manifest = bundle.golden(), bundle.manifest
    profile = manifest.recipe.profile
    return dataclasses.replace(
        samples_from_pixels(golden.images, manifest.preprocess, golden.logits, golden.labels, profile.max_batch),
        trained=manifest.weights.trained,
        multi_label=manifest.multi_label,
        least=profile.min_batch,
    )


def _runnable(bundle: Bundle, target: str | None) -> list[Target]:
    if target is not None:
        return [runnable_target(bundle, target)]
    runnable_target(bundle, None)  # raises where there is none
    built = [Target.parse(name) for name in bundle.reports if bundle.engine(name) is not None]
    return [each for each in built if runtime_for(each).runs(each).usable]
