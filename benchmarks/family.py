"""Take every named architecture through the pipeline: ``python benchmarks/family.py [NAME…]`` prints Markdown.

Random weights: the table is about graphs and runtimes, not about accuracy. For each architecture: the export (checked
by the build: at most 1e-4 of the largest logit off PyTorch), FP32, FP16 and INT8 on each local runtime, and FP16 and
INT8 plans built by TensorRT for RTX. INT8 is calibrated on 16 synthetic images, its weights rounded to the nearest; its
two local runtimes must be within 3 dB of each other. How far rounding alone drives right answers apart is shown by ONNX
Runtime itself, on two graphs that hold the same codes and are computed in another order: the canonical one and
OpenVINO's lowering, whose biases are also 1e-6 where they were 0. A row that falls short says why and makes the exit
code 1.
"""

import math
import sys
import tempfile
import time
from pathlib import Path

from quantization import logits_of

from dnexport.build.pipeline import build
from dnexport.bundle.verify import Bundle
from dnexport.data.images import input_from_pixels
from dnexport.errors import DnexportError
from dnexport.measure.accuracy import snr_db
from dnexport.spec.archs import NAMED
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import recipe_from_values

RTX = "tensorrt-rtx:sm86"
TARGETS = {
    "fp32": ["onnxruntime:cpu", "openvino:cpu"],
    "fp16": ["auto", RTX],
    "int8": ["onnxruntime:cpu", "openvino:cpu", RTX],
}
WITHIN_DB = 3.0
COLUMNS = (
    "arch",
    "parameters",
    "GMACs",
    "FP32: ORT / OpenVINO, dB",
    "FP16 graph, dB",
    "FP16 on OpenVINO, dB",
    "INT8: ORT / OpenVINO, dB",
    "INT8: OpenVINO against ORT, dB",
    "ORT on two forms of the INT8 graph, dB",
    "conv. in INT8",
    "RTX plans FP16 / INT8, MB",
    "seconds",
    "short of",
)


def built(name: str, precision: str, folder: Path) -> Bundle:
    values = {
        "name": f"{name}-{precision}",
        "arch": name,
        "weights": "random",
        "precision": precision,
        "allow_execution": "f32" if precision == "int8" else None,  # ONNX Runtime simulates int8 in float
        "targets": TARGETS[precision],
        "calibration": {"data": "synthetic", "count": 16},
        "quantization": {"rounding": "nearest"},  # GPTQ on 28 networks would take hours
    }
    return build(recipe_from_values(values, name), folder / str(values["name"]), Silent(), bench=False).bundle


def snr(bundle: Bundle, target: str, short: list[str]) -> float:
    """Decibel against PyTorch, 200 where exact; NaN, and a word on it, where the target failed."""
    report = bundle.reports[target]
    if report.accuracy is None:
        short.append(f"{bundle.manifest.recipe.precision}: {report.error}")
        return math.nan
    return 200.0 if report.accuracy.snr_db is None else report.accuracy.snr_db


def two_forms(bundle: Bundle) -> str:
    """ONNX Runtime's logits of the golden images on the canonical INT8 graph, against those on OpenVINO's."""
    lowered = bundle.engine("openvino:cpu")
    if lowered is None:
        return "–"
    images = input_from_pixels(bundle.golden().images, bundle.manifest.preprocess)
    between = snr_db(logits_of(bundle.path / "model.onnx", images), logits_of(lowered, images))
    return "equal" if between is None else f"{between:.0f}"


def row(name: str, folder: Path) -> tuple[list[str], list[str]]:
    """The cells of one architecture, and what falls short."""
    short: list[str] = []
    fp32, fp16, int8 = (built(name, precision, folder) for precision in TARGETS)
    single = [snr(fp32, target, short) for target in ("onnxruntime:cpu", "openvino:cpu")]
    half = snr(fp16, "openvino:cpu", short)
    own, openvino = (snr(int8, target, short) for target in ("onnxruntime:cpu", "openvino:cpu"))
    cross = int8.reports["openvino:cpu"].cross_check
    if abs(own - openvino) > WITHIN_DB:
        short.append(f"INT8 differs between the runtimes: {own:.1f} and {openvino:.1f} dB")
    for bundle in (fp16, int8):
        if (plan := bundle.reports[RTX]).status != "built":
            short.append(f"{RTX}: {plan.error}")
    graph = fp16.reports[RTX].graph_accuracy
    census = int8.reports["onnxruntime:cpu"].census
    share = census.conv_macs_by_precision.get("int8", 0.0) if census else 0.0
    cells = [
        name,
        f"{NAMED[name].arch.parameters:,}",
        f"{NAMED[name].macs / 1e9:.3f}",
        f"{single[0]:.0f} / {single[1]:.0f}",
        f"{graph.snr_db:.0f}" if graph and graph.snr_db else "–",
        f"{half:.0f} ({fp16.reports['openvino:cpu'].executed_precision})",
        f"{own:.1f} / {openvino:.1f}",
        f"{cross.snr_db:.0f}" if cross and cross.snr_db is not None else "–",
        two_forms(int8),
        f"{share:.0%}",
        " / ".join(f"{(bundle.reports[RTX].bytes or 0) / 1e6:.1f}" for bundle in (fp16, int8)),
    ]
    return cells, short


def main() -> None:
    names = sys.argv[1:] or list(NAMED)
    failed = False
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|", flush=True)
    for name in names:
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            try:
                cells, short = row(name, Path(folder))
            except DnexportError as exc:
                cells, short = [name, *["–"] * 10], [str(exc)]
        failed = failed or bool(short)
        print(
            "| " + " | ".join([*cells, f"{time.monotonic() - began:.0f}", "; ".join(short) or "nothing"]) + " |",
            flush=True,
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
