"""Reports without a build: every field filled, numbers made up."""

import base64
import io
from typing import Any

import numpy as np
from PIL import Image

from dnexport.spec.budget import Judgement
from dnexport.spec.latency import (
    BatchPoint,
    Benchmark,
    ColdStart,
    Conditions,
    DeviceTimes,
    Latency,
    PartTime,
    Ratio,
    Reference,
)
from dnexport.spec.manifest import CalibrationSummary, Golden, ReferenceRun, Weights
from dnexport.spec.metrics import Accuracy, ClassDrop, CrossCheck, Environment, PrecisionProof, Shown, TargetReport
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.quantization import CalibrationSet
from dnexport.spec.recipe import Bench
from dnexport.spec.report import BundleReport

NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
GATEWAY = Environment(
    system="Linux 6.1.0",
    machine="x86_64",
    cpu="Some Xeon @ 2.60GHz",
    cpu_features=("avx2", "avx512f", "avx512_vnni"),
    cores=2,
    memory_bytes=8 << 30,
    load_average=0.4,
    governor="performance",
    python="3.11.2",
    versions={"dnexport": "1.0", "torch": "2.9.0", "onnxruntime": "1.23.0", "numpy": "2.3.0"},
)
BOARD = GATEWAY.model_copy(
    update={
        "machine": "aarch64",
        "cpu": "ARMv8 Cortex-A78AE",
        "cpu_features": ("asimd", "asimdhp"),
        "cores": 6,
        "governor": "schedutil",
        "gpu": {"gpu": "Orin Nano", "capability": "8.7", "driver": "540.4.0"},
        "power_mode": "MAXN",
        "versions": {"dnexport": "1.0", "tensorrt": "10.3.0", "numpy": "1.26.4"},
    }
)


def ratio(value: float, spread: float = 0.005, sets: int = 5, seed: int = 0) -> Ratio:
    """Of sets whose logarithms have that standard deviation and exactly that mean."""
    noise = np.random.default_rng(seed).normal(0, 1, sets)
    noise = (noise - noise.mean()) / (noise.std(ddof=1) if sets > 1 else 1)
    starts = tuple((float(each),) for each in value * np.exp(spread * noise))
    return Ratio(value=value, low=value * (1 - spread), high=value * (1 + spread), starts=starts)


def latency(p50: float, batch: int = 1, queries: int = 600) -> Latency:
    samples = np.random.default_rng(round(1000 * p50)).lognormal(np.log(p50), 0.05, queries)
    return Latency(
        batch=batch,
        threads=2,
        samples_ms=tuple(samples.round(4).tolist()),
        sets=(queries // 5,) * 4 + (queries - 4 * (queries // 5),),
        p50_ms=p50,
        p90_ms=1.07 * p50,
        p99_ms=1.13 * p50,
        p90_bound_ms=1.08 * p50,
        p99_bound_ms=1.2 * p50,
        images_per_second=1e3 * batch / p50,
        warm_up_queries=80,
    )


def thumbnail(seed: int) -> str:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC).save(content, "JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode()


def accuracy(lost: int = 31, gained: int = 18, images: int = 10_000, shown: int = 8, **said: Any) -> Accuracy:
    changed = lost + gained + 20
    return Accuracy(
        samples=images,
        labelled=images,
        top1=0.948 - (lost - gained) / images,
        top5=0.998,
        reference_top1=0.948,
        lost=lost,
        gained=gained,
        agreement=1 - changed / images,
        max_abs_error=0.31,
        max_abs_logit=17.2,
        snr_db=37.9,
        drop_interval=(100 * (lost - gained - 14) / images, 100 * (lost - gained + 14) / images),
        calibration_error=0.0261,
        reference_calibration_error=0.0255,
        divergence=4.1e-4,
        flipped_margin=0.34,
        worst_classes=(
            ClassDrop(index=3, images=1000, lost=9, gained=2),
            ClassDrop(index=5, images=1000, lost=5, gained=1),
        ),
        shown=tuple(
            Shown(
                index=17 * i,
                label=3,
                reference=3,
                engine=5,
                margin=0.34 / (i + 1),
                max_abs_error=0.3,
                thumbnail=thumbnail(i),
            )
            for i in range(shown)
        ),
        **said,
    )


def benchmark(p50: float, *, gpu: bool = False, speedup: Ratio | None = None) -> Benchmark:
    speedup = speedup or ratio(12 / p50)
    eager = speedup.model_copy(
        update={"value": 1.6 * speedup.value, "starts": tuple((1.6 * s[0],) for s in speedup.starts)}
    )
    parts = ("stem", "block 1", "transition 1", "block 2", "transition 2", "block 3", "head", "other")
    shares = (0.05, 0.28, 0.06, 0.27, 0.05, 0.25, 0.01, 0.03)
    return Benchmark(
        latency=latency(p50),
        device=DeviceTimes(
            enqueue_ms=0.031,
            h2d_ms=0.012,
            compute_ms=0.9 * p50,
            d2h_ms=0.008,
            compute_samples_ms=(p50,) * 3,
            compute_p99_ms=p50,
        )
        if gpu
        else None,
        references=(
            Reference(form="eager fp32", latency=latency(19.0)),
            Reference(form="channels-last bf16", latency=latency(12.0)),
        ),
        forms_tried={"eager fp32": 19.1, "channels-last bf16": 12.1},
        over_eager=eager,
        over_best=speedup,
        multi_stream=latency(6 * p50, 8),
        offline=tuple(
            BatchPoint(batch=b, images_per_second=r / p50, low=0.97 * r / p50, high=1.03 * r / p50, reference=r / 12)
            for b, r in ((1, 1000), (2, 1240), (4, 1400), (8, 1510), (16, 1490), (32, 1450), (64, 1380))
        ),
        cold_start=ColdStart(open_ms=412, first_query_ms=38, starts=5),
        peak_memory_bytes=312_000_000,
        install_bytes=1_400_000_000,
        millijoules_per_image=14.2 if gpu else None,
        conditions=tuple(
            Conditions(
                at_s=9.0 * i,
                load_average=1.2 + i / 10,
                cpu_mhz=2600,
                gpu_mhz=624 if gpu else None,
                gpu_watts=11.0 if gpu else None,
                gpu_celsius=52.0 + i if gpu else None,
                gpu_throttled=("power cap",) if gpu and i == 2 else (),
            )
            for i in range(4)
        ),
        others_share=0.013,
        parts=tuple(
            PartTime(
                part=name,
                share=share,
                ms=share * p50,
                kernels=12,
                macs=None if name == "other" else 40_000_000,
                bytes=None if name == "other" else 900_000,
                bound=None if name == "other" else ("memory" if i % 3 else "compute"),
            )
            for i, (name, share) in enumerate(zip(parts, shares, strict=True))
        ),
        notes=("torch.compile was not among the PyTorch forms; 'dnexport bench --compile' adds it",),
    )


def target(name: str, executed: Execution, p50: float, **said: Any) -> TargetReport:
    values: dict[str, Any] = {
        "target": name,
        "status": "validated",
        "file": "targets/x/engine",
        "bytes": 3_400_000,
        "engine_digest": "0" * 64,
        "executed_precision": executed,
        "proof": PrecisionProof(
            source="kernel profile",
            conv_work={"int8": 0.98},
            reformats=4,
            statement="98 % of the convolutions' work in int8 kernels",
        ),
        "accuracy": accuracy(),
        "benchmark": benchmark(p50),
    }
    return TargetReport(**{**values, **said})


def bundle(precision: str = "int8", **said: Any) -> BundleReport:
    executed = {"fp16": Execution.BF16, "int8": Execution.INT8_F32, "fp32": Execution.F32}[precision]
    engine = target("openvino:cpu", executed, {"fp16": 5.1, "int8": 3.2, "fp32": 8.0}[precision])
    values: dict[str, Any] = {
        "path": f"engines/built/cifar-{precision}",
        "name": f"cifar-{precision}",
        "digest": "1" * 64,
        "network": "densenet-bc-40-12",
        "parameters": 176_122,
        "precision": Precision(precision),
        "weights": Weights(source="file", file="densenet-bc-40-12.safetensors", digest="2" * 64, trained=True),
        "preprocess": Preprocess(input_size=(32, 32), resize=32, mean=(0.49, 0.48, 0.45), std=(0.25, 0.24, 0.26)),
        "assumed": ("interpolation",),
        "input": "float32",
        "golden": Golden(source="cifar10", test_digest="3" * 64, samples=512, labelled=512),
        "reference": ReferenceRun(form="eager fp32", threads=2, top1=0.948, samples=10_000),
        "bench": Bench(scenarios=("multi-stream", "offline")),
        "environment": GATEWAY,
        "class_names": NAMES,
        "multi_label": False,
        "calibration": None,
        "targets": {engine.target: engine},
        "warnings": (),
        "recipe": 'name = "cifar"\nprecision = "int8"',
    }
    if precision == "int8":
        values["calibration"] = CalibrationSummary(
            calibration_set=CalibrationSet(data="cifar10"),
            images=256,
            tensors=121,
            synthetic=False,
            placement="activation",
            layers=40,
            kept=1,
            trials=(),
            measured_on=None,
        )
    return BundleReport(**{**values, **said})


def everything() -> list[BundleReport]:
    """FP16 and INT8 on one machine, INT8 on another, with every section that a page can have."""
    undecided = Judgement(
        budget="top1-drop<=0.5",
        target="openvino:cpu",
        value=0.47,
        low=0.21,
        high=0.74,
        verdict="undecided",
        reason="about 3000 more labelled images would decide it",
    )
    failed = Judgement(budget="p99<=3ms", target="openvino:cpu", value=3.6, low=3.5, high=3.8, verdict="fail")
    kept = Judgement(budget="size<=10MB", target="openvino:cpu", value=3.4, low=3.4, high=3.4, verdict="pass")
    int8 = bundle("int8")
    judged = int8.targets["openvino:cpu"].model_copy(
        update={
            "judgements": (undecided, failed, kept),
            "cross_check": CrossCheck(against="onnxruntime:cpu", snr_db=48.0, other_snr_db=38.0, floor_db=35.0),
        }
    )
    elsewhere = target(
        "tensorrt", Execution.INT8_F16, 0.9, benchmark=benchmark(0.9, gpu=True), accuracy=accuracy(29, 21, shown=3)
    )
    prepared = TargetReport(
        target="tensorrt-rtx:sm86", status="built", bytes=25_300_000, graph_accuracy=accuracy(), notes=("not run here",)
    )
    return [
        bundle("fp16", targets={"openvino:cpu": bundle("fp16").targets["openvino:cpu"], "tensorrt-rtx:sm86": prepared}),
        int8.model_copy(update={"targets": {"openvino:cpu": judged}}),
        int8.model_copy(
            update={
                "targets": {"tensorrt": elsewhere},
                "environment": BOARD,
                "measured_by": "dnexport bench cifar-int8 --scenario offline --output board.json",
            }
        ),
    ]
