"""What a static batch brings OpenVINO: a graph compiled for one batch size beside the same graph with a symbolic one.

    python benchmarks/static_batch.py GRAPH.onnx [HINT] [BATCH …]

GRAPH is a lowered graph of a bundle (``targets/openvino-cpu/model.onnx``), HINT the float type (f32). Both models are
compiled in one process, answer the same images in alternating blocks, and the ratio of each round is dynamic over
static. Times to compile and the memory that a further model adds stand beside it.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from dnexport.measure.environment import environment
from dnexport.measure.statistics import ratio_interval
from dnexport.runtimes.contract import SessionOptions
from dnexport.runtimes.openvino import OpenVino, OpenVinoSession
from dnexport.spec.precision import Execution
from dnexport.spec.target import Target

ROUNDS, QUERIES = 15, 6
DYNAMIC = -1


def main() -> None:
    graph, hint, batches = (
        Path(sys.argv[1]),
        *(sys.argv[2:3] or ["f32"]),
        [int(text) for text in sys.argv[3:]] or [1, 8],
    )
    machine = environment()
    print(f"{machine.cpu}, {machine.cores} cores, {' '.join(machine.cpu_features)}; {graph}, hint {hint}\n")
    print("| batch | symbolic, ms | static, ms | symbolic / static | compiling, s | memory of one more model, MB |")
    print("|---|---|---|---|---|---|")
    options = SessionOptions(Execution(hint), machine.cores)
    session = OpenVino().load(graph, Target.parse("openvino:cpu"), options)
    for batch in batches:
        print(row(session, batch), flush=True)


def row(session: OpenVinoSession, batch: int) -> str:
    images = np.random.default_rng(0).standard_normal(session.zeros(batch).shape).astype(np.float32)
    dynamic, _, _ = compiled(session, DYNAMIC)
    static, seconds, megabytes = compiled(session, batch)
    queries: list[Callable[[], Any]] = [lambda: dynamic([images]), lambda: static([images])]
    for query in queries:
        milliseconds(query)
    pairs = [[milliseconds(query) for query in queries] for _ in range(ROUNDS)]
    value, low, high = ratio_interval([(before / after,) for before, after in pairs])
    symbolic_ms, static_ms = (median(column) for column in zip(*pairs, strict=True))
    interval = f"{value:.2f}× ({low:.2f} to {high:.2f})" if low is not None else f"{value:.2f}×"
    return f"| {batch} | {symbolic_ms:.2f} | {static_ms:.2f} | {interval} | {seconds:.2f} | {megabytes:.0f} |"


def compiled(session: OpenVinoSession, batch: int) -> tuple[Any, float, float]:
    """A request of a further model, the seconds of compiling it, and the megabytes that it and a query add."""
    before, began = resident(), time.perf_counter()
    model = session.compiled(batch)
    seconds = time.perf_counter() - began
    request = model.create_infer_request()
    request.infer([session.zeros(max(batch, 1))])
    return request.infer, seconds, resident() - before


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def milliseconds(query: Callable[[], Any]) -> float:
    began = time.perf_counter()
    for _ in range(QUERIES):
        query()
    return (time.perf_counter() - began) / QUERIES * 1e3


if __name__ == "__main__":
    main()
