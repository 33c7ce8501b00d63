"""INT8 beside its peers: ``python benchmarks/quantization.py CIFAR10 IMAGES ENVIRONMENTS`` prints Markdown.

``--network`` and ``--tool`` take one of the networks, or some of the tools.

CIFAR10 is a folder with ``train/`` and ``test/`` of class folders, IMAGES one of photographs, ENVIRONMENTS one in which
virtual environments of NNCF and Model Optimizer are made, where they are not there yet.

Each tool gets the same exported graph and the same calibration images, in a process of its own that is ended above
`LIMIT_BYTES` of memory or after `LIMIT_S` seconds. What comes out is compared on ONNX Runtime's CPU provider with the
float graph: top-1 with its exact paired interval, agreement, centred SNR. Engines are run on OpenVINO and timed in
blocks that alternate with dnexport's, where OpenVINO's answers are those of ONNX Runtime (30 dB, or as near to the
float graph within 3 dB). A plan is built by TensorRT for RTX, or its first error given.
"""

import argparse
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from peers import CONFIGURATIONS
from processes import Watched, watched
from scipy.stats import binomtest

from dnexport.build.host_stages import MODEL, canonical, context_from_recipe, export
from dnexport.data.datasets import splits_from_source
from dnexport.data.images import input_from_pixels
from dnexport.deploy.bench import Images, blocks_of_engines
from dnexport.deploy.compile import compile_target
from dnexport.deploy.engine import Engine
from dnexport.errors import DnexportError
from dnexport.graph.census import census_from_model
from dnexport.graph.contract import apply
from dnexport.graph.passes_for import passes_for
from dnexport.measure.accuracy import snr_db
from dnexport.measure.latency import ratio_from_blocks
from dnexport.runtimes.contract import BuildOptions
from dnexport.runtimes.onnxruntime import float_session
from dnexport.spec.latency import Ratio
from dnexport.spec.precision import Precision
from dnexport.spec.profile import Profile
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import Bench, recipe_from_values
from dnexport.spec.target import Target

CHECKPOINT = Path(__file__).parent / "cifar10" / "densenet-bc-40-12.safetensors"
LIMIT_BYTES = 12 << 30
LIMIT_S = 600
OPENVINO, OWN = Target.parse("openvino:cpu"), Target.parse("onnxruntime:cpu")
RTX = Target.parse("tensorrt-rtx:sm86")
COLUMNS = (
    "agreement",
    "SNR, dB",
    "conv. in INT8",
    "seconds",
    "peak GB",
    "OpenVINO against ORT, dB",
    "OpenVINO, batch 1: dnexport is faster",
    "TensorRT for RTX",
)


@dataclass(frozen=True)
class Case:
    """One network with its images, float32 [images, channels, height, width]."""

    folder: Path
    calibration: np.ndarray
    test: np.ndarray
    labels: np.ndarray | None

    @property
    def exported(self) -> Path:
        return self.folder / "exported.onnx"


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("cifar", "images", "environments"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--network", action="append", choices=["cifar10", "densenet121"])
    parser.add_argument("--tool", action="append", choices=list(CONFIGURATIONS))
    arguments = parser.parse_args()
    chosen, tools = arguments.network or ["cifar10", "densenet121"], arguments.tool or list(CONFIGURATIONS)
    cifar, images = arguments.cifar.resolve(), arguments.images.resolve()
    pythons = {name: interpreter(CONFIGURATIONS[name][0], arguments.environments.resolve()) for name in tools}
    with tempfile.TemporaryDirectory() as name:
        if "cifar10" in chosen:
            print("### densenet-bc-40-12, trained on CIFAR-10; 512 images calibrate, 10,000 test\n")
            table(cifar_case(Path(name) / "cifar", cifar), pythons)
        if "densenet121" in chosen:
            print("\n### densenet121, random weights; 64 photographs calibrate, 36 test\n")
            table(photographs_case(Path(name) / "photographs", images), pythons)


def interpreter(package: str, environments: Path) -> str:
    """The Python of a peer's own environment, which is made where it is not there."""
    if package == "dnexport":
        return sys.executable
    folder = environments / package
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        extra = {"nncf": ["nncf", "openvino", "onnx", "onnxruntime"], "nvidia-modelopt": ["nvidia-modelopt[onnx]"]}
        subprocess.run([python, "-m", "pip", "install", "-q", *extra[package]], check=True)
    return str(python)


def cifar_case(folder: Path, source: Path) -> Case:
    splits = splits_from_source(str(source))
    preprocess = exported(folder, {"weights": str(CHECKPOINT)})
    per_class = 512 // len(splits.train.classes) + 1
    labels = np.asarray(splits.train.labels)
    drawn = [i for k in range(len(splits.train.classes)) for i in np.flatnonzero(labels == k)[:per_class]]
    calibration = splits.train.subset([int(i) for i in drawn[:512]])
    return Case(
        folder,
        input_from_pixels(calibration.pixels(preprocess), preprocess),
        input_from_pixels(splits.test.pixels(preprocess), preprocess),
        np.asarray(splits.test.labels),
    )


def photographs_case(folder: Path, source: Path) -> Case:
    preprocess = exported(folder, {"arch": "densenet121", "weights": "random"})
    splits = splits_from_source(str(source))
    pictures = [picture for part in (splits.train, splits.test) for picture in part.pictures]
    pixels = splits.test.__class__("photographs", pictures[:100], (-1,) * 100, ()).pixels(preprocess)
    inputs = input_from_pixels(pixels, preprocess)
    return Case(folder, inputs[:64], inputs[64:], None)


def exported(folder: Path, network: dict[str, str]):  # type: ignore[no-untyped-def]
    """Write the plain export, the canonical graph and the preprocessing into ``folder``; the preprocessing."""
    folder.mkdir()
    recipe = recipe_from_values({"name": "benchmark", "precision": "fp32", **network}, "benchmark")
    context = context_from_recipe(recipe, folder / "stages", Silent())
    plain = export(context)
    (folder / "exported.onnx").write_bytes((plain / MODEL).read_bytes())
    (folder / "float.onnx").write_bytes((canonical(context, plain) / MODEL).read_bytes())
    (folder / "preprocess.json").write_text(context.network.preprocess.model_dump_json())
    return context.network.preprocess


def table(case: Case, pythons: dict[str, str]) -> None:
    np.save(case.folder / "calibration.npy", case.calibration)
    reference = logits_of(case.exported, case.test)
    columns = [*(["top-1 (lost points, 95 %)"] if case.labels is not None else []), *COLUMNS]
    print(f"| tool | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|", flush=True)
    if case.labels is not None:
        top1 = (reference.argmax(1) == case.labels).mean()
        print(f"| float graph | {top1:.2%} |" + " – |" * len(COLUMNS), flush=True)
    own: Path | None = None
    for name, python in pythons.items():
        folder = case.folder / name.replace(" ", "-")
        folder.mkdir()
        model = folder / "quantized.onnx"
        run = quantized(name, python, case, model)
        if run.code != 0 or not model.exists():
            print(f"| {name} | {failure(run)} |" + " – |" * (len(columns) - 1), flush=True)
            continue
        own = own or model
        print(f"| {name} | {row(case, model, own, reference, run)} |", flush=True)
    if own is not None:
        single = ratio(own, case.folder / "float.onnx", case, OWN)
        print(
            f"\ndnexport's INT8 on OpenVINO is {single} as fast as ONNX Runtime on the float graph, batch 1.",
            flush=True,
        )


def quantized(name: str, python: str, case: Case, model: Path) -> Watched:
    script = Path(__file__).parent / "peers.py"
    command = [python, str(script), name, str(case.exported), str(case.folder / "calibration.npy"), str(model)]
    return watched(command, case.folder, limit_bytes=LIMIT_BYTES, limit_s=LIMIT_S)


def failure(run: Watched) -> str:
    if run.code is None:
        return f"out of memory: more than {LIMIT_BYTES / 2**30:.0f} GB"
    if run.seconds >= LIMIT_S:
        return f"not done after {LIMIT_S:.0f} s"
    lines = [line for line in run.errors.strip().splitlines() if line.strip()]
    return f"failed: {lines[-1][:100] if lines else run.code}"


def row(case: Case, model: Path, own: Path, reference: np.ndarray, run: Watched) -> str:
    logits = logits_of(model, case.test)
    snr = snr_db(reference, logits)
    cells = [f"{(logits.argmax(1) == reference.argmax(1)).mean():.2%}", f"{snr:.1f}"]
    if case.labels is not None:
        cells.insert(0, accuracy(reference, logits, case.labels))
    loaded = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(model)))
    cells.append(f"{census_from_model(loaded).conv_macs_by_precision.get('int8', 0):.1%}")
    cells += [f"{run.seconds:.0f}", f"{run.peak_bytes / 1e9:.2f}"]
    lowered = lower(model, OPENVINO)
    cells += on_openvino(case, lowered, own.with_name("openvino.onnx"), reference, logits)
    return " | ".join([*cells, plan(model)])


def accuracy(reference: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> str:
    """Top-1, and the paired loss: an exact interval of the share of losses among all answers that changed sides."""
    was, now = reference.argmax(1) == labels, logits.argmax(1) == labels
    lost, gained = int((was & ~now).sum()), int((~was & now).sum())
    changed = lost + gained
    if not changed:
        return f"{now.mean():.2%} (0.00)"
    interval = binomtest(lost, changed).proportion_ci(method="exact")
    low, high = (100 * changed / len(labels) * (2 * end - 1) for end in (interval.low, interval.high))
    return f"{now.mean():.2%} ({100 * (lost - gained) / len(labels):+.2f}, {low:+.2f} to {high:+.2f})"


def logits_of(model: Path, images: np.ndarray) -> np.ndarray:
    session = float_session(model)
    name = session.get_inputs()[0].name
    fixed = session.get_inputs()[0].shape[0]
    step = fixed if isinstance(fixed, int) else min(64, len(images))
    return np.concatenate([session.run(None, {name: images[i : i + step]})[0] for i in range(0, len(images), step)])


def lower(model: Path, target: Target) -> Path:
    """The graph that a target gets: dnexport's lowering of its own graphs, a peer's graph as it is."""
    path = model.with_name(f"{target.runtime}.onnx")
    loaded = ir.from_proto(onnx.load(model))
    if is_ours(model):
        apply(passes_for(Precision.INT8, target), loaded)
    onnx.save(ir.to_proto(loaded), path)
    return path


def is_ours(model: Path) -> bool:
    return (model.parent / "canonical.onnx").exists()


def on_openvino(case: Case, model: Path, own: Path, reference: np.ndarray, logits: np.ndarray) -> list[str]:
    """Agreement with ONNX Runtime on the same graph, and how much slower than dnexport's; or what went wrong."""
    count = min(512, len(case.test))
    try:
        with Engine(OPENVINO, model, Precision.INT8).probe("running a peer on") as worker:
            found = np.concatenate(worker.method("logits", case.test[:count], 1))
    except DnexportError as exc:
        return [exc.message[:60], "–"]
    between = snr_db(logits[:count], found)
    theirs, there = snr_db(reference[:count], logits[:count]), snr_db(reference[:count], found)
    right = between is None or between >= 30 or (there or 200) >= (theirs or 200) - 3
    between_text = "equal" if between is None else f"{between:.0f}"
    if not right:
        return [f"{between_text}: **wrong** ({there:.1f} dB to the float graph)", "–"]
    return [between_text, "1" if model == own else str(ratio(own, model, case, OPENVINO))]


def ratio(own: Path, other: Path, case: Case, target: Target) -> Ratio:
    """How many times faster dnexport's engine is than another one, in alternating blocks at batch 1."""
    lowered = own.with_name("openvino.onnx")
    precision = Precision.INT8 if target == OPENVINO else Precision.FP32
    engines = [Engine(target, other, precision), Engine(OPENVINO, lowered, Precision.INT8)]
    blocks = blocks_of_engines(engines, Images(lambda _: case.test[:16]), Bench(), lambda *_: None)
    return ratio_from_blocks(*blocks)


def plan(model: Path) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            body = Precision.INT8 if is_ours(model) else Precision.FP32  # the peers leave the body in float32
            compile_target(lower(model, RTX), Path(folder), RTX, BuildOptions(Profile(), body))
        except DnexportError as exc:
            return f"refused: {exc.message[:90]}"
    return "built"


if __name__ == "__main__":
    main()
