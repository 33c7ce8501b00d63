"""dnexport's clock beside others': the same forms and engines, timed by three harnesses in fresh processes.

    python benchmarks/harness.py BUNDLE

For each form of PyTorch that takes part, and each engine of the bundle that runs here: the p50 of `dnexport bench`'s
protocol; ``torch.utils.benchmark`` (forms only); MLPerf's load generator (engines only, if ``mlcommons-loadgen`` is
installed); and a bare loop around the call. Each is a process of its own with the environment as it is, and they take
turns. A row is right where every other clock lies within 5 % of the p50, or inside of its interval over the processes.
"""

import contextlib
import functools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dnexport.build.network import reference_factory
from dnexport.bundle.verify import Bundle
from dnexport.data.images import feed_from_pixels
from dnexport.deploy.engine import Engine, engine_from_bundle
from dnexport.measure.environment import environment
from dnexport.measure.latency import Probe
from dnexport.measure.statistics import ratio_interval
from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.registry import open_session, runtime_for, session_options
from dnexport.runtimes.torch_eager import Form, TorchSession, forms_on
from dnexport.spec.target import Target

SETS, SECONDS = 3, 0.5
WITHIN = 0.05
Times = list[float]


def main() -> int:
    bundle = Bundle.open(sys.argv[1])
    machine = environment()
    print(f"{machine.cpu}, {machine.cores} cores, {' '.join(machine.cpu_features)}; {bundle.path.name}, batch 1\n")
    print("| session | dnexport, ms (95 %) | torch.utils.benchmark | load generator | bare loop | agrees |")
    print("|---|---|---|---|---|---|")
    agrees = True
    pixels, preprocess = bundle.golden().images[:16], bundle.manifest.preprocess
    feed = feed_from_pixels(pixels, preprocess)
    factory = reference_factory(bundle.manifest)
    for form in forms_on("cpu", single=available_threads() > 1) if factory is not None else ():
        session = functools.partial(TorchSession, factory, form)
        clocks = [our_clock, functools.partial(torch_clock, factory, form), None, bare_loop]
        agrees &= row(f"PyTorch {form}", session, feed("float32"), clocks)
    for name in bundle.reports:
        target = Target.parse(name)
        if bundle.engine(name) is not None and runtime_for(target).runs(target).usable:
            engine = engine_from_bundle(bundle, target)
            opened = functools.partial(opened_engine, engine)
            generator = load_generator if loadgen_here() else None
            agrees &= row(name, opened, feed(engine.input_type), [our_clock, None, generator, bare_loop])
    return 0 if agrees else 1


def opened_engine(engine: Engine) -> Any:
    return open_session(engine.file, engine.target, session_options(engine.precision, engine.target, engine.allowed))


def row(name: str, session: Callable[[], Any], images: np.ndarray, clocks: list[Callable[..., Times] | None]) -> bool:
    """Print a row; whether every clock agrees with ours."""
    medians: list[Times] = [[] for _ in clocks]
    for start in range(SETS):
        for index in range(len(clocks)) if start % 2 else reversed(range(len(clocks))):
            if (clock := clocks[index]) is not None:
                with Worker("timing", env={"PYTHONPATH": str(Path(__file__).parent)}) as worker:
                    medians[index].append(median(worker.call(clock, session, images)))
    value, low, high = ratio_interval([(each,) for each in medians[0]])
    assert low is not None
    assert high is not None
    others = [median(each) if each else None for each in medians[1:]]
    right = all(ms is None or low <= ms <= high or abs(ms / value - 1) <= WITHIN for ms in others)
    cells = [f"{ms:.2f}" if ms is not None else "–" for ms in others]
    print(
        f"| {name} | {value:.2f} ({low:.2f} to {high:.2f}) | {' | '.join(cells)} | {'yes' if right else 'NO'} |",
        flush=True,
    )
    return right


def our_clock(session: Callable[[], Any], images: np.ndarray) -> Times:
    probe = Probe(session, images)
    probe.warm_up(1, 0.2)
    return list(probe.block(1, SECONDS).times_ms)


def bare_loop(session: Callable[[], Any], images: np.ndarray) -> Times:
    run = session()
    until(SECONDS, lambda: run(images[:1]))
    return until(SECONDS, lambda: run(images[:1]))


def until(seconds: float, query: Callable[[], object]) -> Times:
    times: Times = []
    end = time.perf_counter() + seconds
    while len(times) < 6 or time.perf_counter() < end:
        start = time.perf_counter()
        query()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def torch_clock(factory: Callable[[], Any], form: Form, session: Callable[[], Any], images: np.ndarray) -> Times:
    """PyTorch's own tool. It sets one thread where nobody says a number, so it is told the form's."""
    del session
    import torch
    from torch.utils import benchmark

    threads = 1 if form.single else torch.get_num_threads()
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[form.dtype]
    layout = torch.contiguous_format if form.layout == "contiguous" else torch.channels_last
    module = factory().eval().to(dtype=dtype, memory_format=layout)
    x = torch.from_numpy(np.ascontiguousarray(images[:1]))
    with torch.inference_mode():
        timer = benchmark.Timer(
            "module(x.to(dtype).contiguous(memory_format=layout)).float().numpy()",
            globals={"module": module, "x": x, "dtype": dtype, "layout": layout},
            num_threads=threads,
        )
        timer.blocked_autorange(min_run_time=SECONDS)
        measured = timer.blocked_autorange(min_run_time=SECONDS)
    return [seconds * 1e3 for seconds in measured.times]


def loadgen_here() -> bool:
    with contextlib.suppress(ImportError):
        import mlperf_loadgen  # noqa: F401

        return True
    return False


def load_generator(session: Callable[[], Any], images: np.ndarray) -> Times:
    """MLPerf's SingleStream scenario: it issues each query when the one before is answered."""
    import mlperf_loadgen as lg

    run, times = session(), Times()
    until(SECONDS, lambda: run(images[:1]))

    def issue(samples: list[Any]) -> None:
        for sample in samples:
            answer = run(images[sample.index : sample.index + 1])
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, answer.ctypes.data, answer.nbytes)])

    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.SingleStream, lg.TestMode.PerformanceOnly
    settings.single_stream_expected_latency_ns = 10_000_000
    settings.min_duration_ms, settings.min_query_count, settings.max_query_count = int(SECONDS * 1e3), 6, 100_000
    with tempfile.TemporaryDirectory() as folder:
        output = lg.LogOutputSettings()
        output.outdir, output.copy_summary_to_stdout = folder, False
        logs = lg.LogSettings()
        logs.log_output = output
        sut, qsl = lg.ConstructSUT(issue, lambda: None), lg.ConstructQSL(len(images), len(images), list, list)
        lg.StartTestWithLogSettings(sut, qsl, settings, logs)
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
        prefix = ":::MLLOG "
        with open(os.path.join(folder, "mlperf_log_detail.txt"), encoding="utf-8") as lines:
            events = [json.loads(line.removeprefix(prefix)) for line in lines if line.startswith(prefix)]
    (p50,) = [e["value"] for e in events if e["key"] == "result_50.00_percentile_latency_ns"]
    times.append(p50 / 1e6)
    return times


if __name__ == "__main__":
    import harness  # by its own name, so that a worker finds its functions

    raise SystemExit(harness.main())
