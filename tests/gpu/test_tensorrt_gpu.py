"""TensorRT and TensorRT for RTX where an NVIDIA GPU is: built, run, compared, timed.

Not yet run on a GPU. The bounds are what the arithmetic lets expect, not what was measured.
"""

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from dnexport.data.images import input_from_pixels
from dnexport.errors import BadInput, BuildFailed
from dnexport.graph.census import census_from_model
from dnexport.graph.contract import apply, model_from_path, save_model
from dnexport.graph.insert_qdq import InsertQdq, quantization_points
from dnexport.graph.passes_for import passes_for
from dnexport.measure.accuracy import snr_db
from dnexport.models.export import graph_logits
from dnexport.runtimes.contract import BuildOptions, SessionOptions
from dnexport.runtimes.gpu import gpu_capabilities, gpu_names
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.onnxruntime import float_session
from dnexport.runtimes.registry import compile_engine, open_session
from dnexport.runtimes.tensorrt import TensorRT
from dnexport.runtimes.tensorrt_session import RUNTIME_CACHE
from dnexport.spec.engine import EngineOptions
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.profile import Profile
from dnexport.spec.quantization import Range
from dnexport.spec.target import Target
from tests.graph.test_insert_qdq import table
from tests.networks import TINY_PREPROCESS, tiny_pixels

pytestmark = pytest.mark.skipif(not gpu_names(), reason="no NVIDIA GPU is here")

FLOOR_DB = {Precision.FP32: 80.0, Precision.FP16: 40.0, Precision.INT8: 25.0}


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def target(request: pytest.FixtureRequest) -> Target:
    if request.param == "tensorrt":
        here = Target.parse("tensorrt")
    else:
        capability = gpu_capabilities()[0]
        trt = pytest.importorskip("tensorrt_rtx")
        if not hasattr(trt.ComputeCapability, capability.upper()):
            pytest.skip(f"TensorRT for RTX {trt.__version__} does not build for {capability}")
        here = Target.parse(f"tensorrt-rtx:{capability}")
    for found in (TensorRT().builds(here), TensorRT().runs(here)):
        if not found.usable:
            pytest.skip(f"{here}: {found.reason}")
    return here


only_tensorrt = pytest.mark.parametrize("target", ["tensorrt"], indirect=True)
only_rtx = pytest.mark.parametrize("target", ["tensorrt-rtx"], indirect=True)


def images(count: int, seed: int = 5) -> np.ndarray:
    return input_from_pixels(tiny_pixels(count, seed=seed), TINY_PREPROCESS)


def lowered(graph: Path, folder: Path, precision: Precision, target: Target, *, pixels: bool = False) -> Path:
    model = model_from_path(graph)
    if precision is Precision.INT8:
        apply((InsertQdq(table({name: Range(lo=-5, hi=5) for name in quantization_points(model)})),), model)
    apply(passes_for(precision, target, TINY_PREPROCESS if pixels else None), model)
    save_model(model, folder / "lowered.onnx")
    return folder / "lowered.onnx"


def build(graph: Path, target: Target, options: BuildOptions) -> Path:
    with Worker(f"building {target}", env=TensorRT().environment(target)) as worker:
        return worker.call(compile_engine, graph, graph.parent, target, options).engine


def options(precision: Precision, target: Target, *, cuda_graph: bool = True, cache: Path | None = None) -> SessionOptions:  # fmt: skip
    return SessionOptions(TensorRT().execution(precision, target), 1, cache=cache, cuda_graph=cuda_graph)


@contextmanager
def session(engine: Path, target: Target, how: SessionOptions) -> Iterator[Worker]:
    """In a worker: two libraries of one maker in one process may not agree."""
    with Worker(f"running {target}", env=TensorRT().environment(target)) as worker:
        worker.create(open_session, engine, target, how)
        yield worker
        worker.method("close")


@pytest.mark.parametrize("precision", list(Precision))
def test_logits_are_those_of_onnx_runtime(
    tiny_graph: Path, tmp_path: Path, target: Target, precision: Precision
) -> None:
    graph = lowered(tiny_graph, tmp_path, precision, target)
    engine = build(graph, target, BuildOptions(Profile(), precision))
    expected = graph_logits(tiny_graph, images(8))
    if precision is Precision.INT8:  # the very graph: the ranges are made up
        expected = float_session(graph).run(None, {"input": images(8)})[0]
    with session(engine, target, options(precision, target)) as worker:
        for _ in range(3):  # eager, captured, replayed
            snr = snr_db(expected, worker.method("__call__", images(8)))
            assert snr is None or snr > FLOOR_DB[precision]
        one = worker.method("values", images(1))
        assert list(one) == ["logits"]
        snr = snr_db(expected, np.concatenate([worker.method("__call__", images(8)[i : i + 1]) for i in range(8)]))
        assert snr is None or snr > FLOOR_DB[precision]


def test_phases_are_told(tiny_graph: Path, tmp_path: Path, target: Target) -> None:
    engine = build(lowered(tiny_graph, tmp_path, Precision.FP16, target), target, BuildOptions(Profile(), Precision.FP16))  # fmt: skip
    with session(engine, target, options(Precision.FP16, target)) as worker:
        assert worker.method("phases") is None
        worker.method("__call__", images(8))
        phases = dataclasses.asdict(worker.method("phases"))
    assert all(value > 0 for value in phases.values()), phases


def test_a_cuda_graph_changes_no_bit(tiny_graph: Path, tmp_path: Path, target: Target) -> None:
    """Also where batch sizes take turns, and are more than contexts are kept for."""
    engine = build(lowered(tiny_graph, tmp_path, Precision.FP16, target), target, BuildOptions(Profile(), Precision.FP16))  # fmt: skip
    batches = [1, 1, 1, 8, 8, 8, 1, 8, 2, 2, 3, 3, 4, 4, 5, 5, 1, 1, 8, 8]
    answers = []
    for cuda_graph in (False, True):
        with session(engine, target, options(Precision.FP16, target, cuda_graph=cuda_graph)) as worker:
            answers.append([worker.method("__call__", images(batch, seed)) for seed, batch in enumerate(batches)])
    for eager, graph in zip(*answers, strict=True):
        np.testing.assert_array_equal(eager, graph)


@only_tensorrt
def test_kernels_are_timed_once(tiny_graph: Path, tmp_path: Path, target: Target) -> None:
    graph, cache = lowered(tiny_graph, tmp_path, Precision.FP16, target), tmp_path / "timing.cache"
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        build(graph, target, BuildOptions(Profile(), Precision.FP16, timing_cache=cache))
        seconds.append(time.perf_counter() - began)
        assert cache.stat().st_size > 0
    assert seconds[1] < 1.1 * seconds[0]
    cache.write_bytes(b"damaged")
    build(graph, target, BuildOptions(Profile(), Precision.FP16, timing_cache=cache))
    assert cache.read_bytes() != b"damaged"


@pytest.mark.parametrize("precision", list(Precision))
def test_the_inspector_proves_the_precision(tiny_graph: Path, tmp_path: Path, target: Target, precision: Precision) -> None:  # fmt: skip
    graph = lowered(tiny_graph, tmp_path, precision, target)
    engine = build(graph, target, BuildOptions(Profile(), precision))
    macs = census_from_model(model_from_path(graph)).conv_macs
    with session(engine, target, options(precision, target)) as worker:
        executed = worker.method("executed", macs)
    assert executed.proof.source == "engine inspector"
    if not executed.proof.conv_work:
        assert target.runtime == "tensorrt-rtx"
        assert executed.proof.statement.endswith("is unproven")
        return
    assert sum(executed.proof.conv_work.values()) == pytest.approx(1)
    assert "unknown" not in executed.proof.conv_work, executed.proof.statement
    if precision is not Precision.INT8:
        assert executed.execution is {Precision.FP32: Execution.F32, Precision.FP16: Execution.F16}[precision]


@pytest.mark.parametrize("count", [1, 9])
def test_a_batch_outside_of_the_profile_is_refused(tiny_graph: Path, tmp_path: Path, target: Target, count: int) -> None:  # fmt: skip
    profile = Profile(min_batch=2, opt_batch=4, max_batch=8)
    graph = lowered(tiny_graph, tmp_path, Precision.FP16, target)
    engine = build(graph, target, BuildOptions(profile, Precision.FP16))
    with session(engine, target, options(Precision.FP16, target)) as worker:
        with pytest.raises(BadInput, match=f"batch 2 to 8, and got a batch of {count}"):
            worker.method("__call__", images(count))
        assert worker.method("__call__", images(2)).shape == (2, 5)


def test_pixels_are_taken_as_they_are(tiny_graph: Path, tmp_path: Path, target: Target) -> None:
    graph = lowered(tiny_graph, tmp_path, Precision.FP16, target, pixels=True)
    engine = build(graph, target, BuildOptions(Profile(), Precision.FP16))
    with session(engine, target, options(Precision.FP16, target)) as worker:
        logits = worker.method("__call__", tiny_pixels(4, seed=5))
    snr = snr_db(graph_logits(tiny_graph, images(4)), logits)
    assert snr is None or snr > FLOOR_DB[Precision.FP16]


@only_rtx
def test_what_rtx_compiles_is_kept(tiny_graph: Path, tmp_path: Path, target: Target) -> None:
    engine = build(lowered(tiny_graph, tmp_path, Precision.FP16, target), target, BuildOptions(Profile(), Precision.FP16))  # fmt: skip
    answers = []
    for damaged in (False, False, True):
        if damaged:
            (tmp_path / RUNTIME_CACHE).write_bytes(b"damaged")
        with session(engine, target, options(Precision.FP16, target, cache=tmp_path)) as worker:
            answers.append(worker.method("__call__", images(8)))
        assert (tmp_path / RUNTIME_CACHE).stat().st_size > len(b"damaged")
    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


@only_tensorrt
@pytest.mark.parametrize(
    "engine_options", [EngineOptions(hardware_compatibility="ampere+"), EngineOptions(version_compatible=True)]
)
def test_portable_plans_run(tiny_graph: Path, tmp_path: Path, target: Target, engine_options: EngineOptions) -> None:
    graph = lowered(tiny_graph, tmp_path, Precision.FP16, target)
    engine = build(graph, target, BuildOptions(Profile(), Precision.FP16, engine_options))
    with session(engine, target, options(Precision.FP16, target)) as worker:
        snr = snr_db(graph_logits(tiny_graph, images(8)), worker.method("__call__", images(8)))
    assert snr is None or snr > FLOOR_DB[Precision.FP16]


def test_a_plan_that_was_cut_is_refused(tiny_graph: Path, tmp_path: Path, target: Target) -> None:
    engine = build(lowered(tiny_graph, tmp_path, Precision.FP16, target), target, BuildOptions(Profile(), Precision.FP16))  # fmt: skip
    assert TensorRT().judges(engine) is None
    engine.write_bytes(engine.read_bytes()[:-1000])
    with pytest.raises(BuildFailed), session(engine, target, options(Precision.FP16, target)):
        pass
