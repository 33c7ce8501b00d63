"""What each part of the INT8 quantization does: ``python benchmarks/int8_passes.py CHECKPOINT DATA [IMAGES]``.

One table of Markdown: for each combination the centred SNR, agreement and top-1 on DATA's test part against PyTorch, on
ONNX Runtime, the time of quantizing, and the latency of batch 1 on OpenVINO beside the plain quantization, in blocks
that alternate. IMAGES (256) calibrate.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from dnexport.build.pipeline import build
from dnexport.bundle.verify import Bundle
from dnexport.errors import ParityFailed
from dnexport.runtimes.contract import SessionOptions
from dnexport.runtimes.registry import open_session
from dnexport.spec.precision import Execution
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import recipe_from_values
from dnexport.spec.target import Target

PLAIN = {"centre": "none", "rounding": "nearest", "correct_bias": False, "transitions": "int8", "pixel_input": False}
ROWS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "min-max, nearest (plain)": (PLAIN, {}),
    "percentile 99.99": (PLAIN, {"observer": "percentile"}),
    "entropy": (PLAIN, {"observer": "entropy"}),
    "mean squared error": (PLAIN, {"observer": "mse"}),
    "plain, bias correction": ({**PLAIN, "correct_bias": True}, {}),
    "plain, GPTQ rounding and bias correction": ({**PLAIN, "rounding": "gptq", "correct_bias": True}, {}),
    "plain, centred 1×1": ({**PLAIN, "centre": "pointwise"}, {}),
    "plain, centred 1×1 and 3×3": ({**PLAIN, "centre": "all"}, {}),
    "plain, centred 1×1 and 3×3, pixel grid": ({**PLAIN, "centre": "all", "pixel_input": True}, {}),
    "plain, transitions in float": ({**PLAIN, "transitions": "float"}, {}),
    "**all but the clipping observers (default)**": ({}, {}),
    "default, transitions in int8": ({"transitions": "int8"}, {}),
    "default, no pixel grid": ({"pixel_input": False}, {}),
    "default, centred 1×1 only": ({"centre": "pointwise"}, {}),
    "default, nearest rounding": ({"rounding": "nearest"}, {}),
    "default, percentile 99.99": ({}, {"observer": "percentile"}),
    "default, mean squared error": ({}, {"observer": "mse"}),
    "placement state": ({"placement": "state"}, {}),
    "placement state, transitions in float": ({"placement": "state", "transitions": "float"}, {}),
    "placement state, transitions and their pooling in float": (
        {"placement": "state", "transitions": "float", "pooling": "float"},
        {},
    ),
    "placement state, entropy": ({"placement": "state"}, {"observer": "entropy"}),
}
BLOCKS, QUERIES = 15, 40


def built(
    name: str, checkpoint: str, data: str, images: int, how: tuple[dict[str, object], dict[str, object]], folder: Path
) -> tuple[Bundle, float]:
    quantization, observer = how
    values = {
        "name": "row",
        "weights": checkpoint,
        "data": data,
        "precision": "int8",
        "targets": ["onnxruntime:cpu", "openvino:cpu"],
        "allow_execution": ["f32", "int8-saturating"],  # ONNX Runtime simulates int8 in float
        "calibration": {"count": images, **observer},
        "quantization": quantization,
    }
    bundle = build(recipe_from_values(values, name), folder / str(abs(hash(name))), Silent(), bench=False).bundle
    stages = bundle.manifest.stages
    return bundle, sum(run.seconds for stage, run in stages.items() if stage.startswith(("calibrate", "quantize")))


def query(bundle: Bundle) -> Callable[[], None]:
    engine = bundle.engine("openvino:cpu")
    assert engine is not None
    session = open_session(engine, Target.parse("openvino:cpu"), SessionOptions(Execution.INT8_F32, 2))
    size = bundle.manifest.preprocess.input_size
    x = np.random.default_rng(0).standard_normal((1, bundle.manifest.arch.channels, *size)).astype(np.float32)

    def run() -> None:
        session(x)

    return run


def milliseconds(run: Callable[[], None]) -> float:
    run()
    began = time.perf_counter()
    for _ in range(QUERIES):
        run()
    return (time.perf_counter() - began) / QUERIES * 1e3


def main() -> None:
    checkpoint, data = sys.argv[1:3]
    images = int(sys.argv[3]) if len(sys.argv) > 3 else 256
    print("| quantization | SNR, dB | agreement | top-1 (PyTorch) | seconds | p50 beside plain |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        plain: Callable[[], None] | None = None
        for name, how in ROWS.items():
            try:
                bundle, seconds = built(name, checkpoint, data, images, how, Path(folder))
            except ParityFailed as exc:
                print(f"| {name} | refused: {exc.message} | – | – | – | – |", flush=True)
                continue
            accuracy = bundle.reports["onnxruntime:cpu"].accuracy
            assert accuracy is not None
            assert accuracy.top1 is not None
            assert accuracy.reference_top1 is not None
            assert accuracy.snr_db is not None
            run = query(bundle)
            plain = plain or run
            ratios = []
            for _ in range(BLOCKS):
                base = milliseconds(plain)
                ratios.append(milliseconds(run) / base)
            print(
                f"| {name} | {accuracy.snr_db:.1f} | {accuracy.agreement:.2%} | {accuracy.top1:.2%} "
                f"({accuracy.reference_top1:.2%}) | {seconds:.0f} | ×{statistics.median(ratios):.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
