"""A bundle as a model of NVIDIA's Triton Inference Server.

::

    <name>/config.pbtxt         what Triton is told, in protobuf's text format
    <name>/1/model.onnx         or model.plan
    <name>/labels.txt           one class name a line
    <name>/warmup/*.raw         golden images, as the engine takes them

The configuration says everything: nothing is left to Triton's auto-completion. Who batches differs. Where Triton may
call an engine with any number of images up to the largest, it does (``max_batch_size``, dynamic batching). Two kinds
of engine it may not: a plan whose smallest batch is above one; and OpenVINO's, since that backend compiles for exactly
``max_batch_size`` images and pads or refuses every smaller query. For these the batch is a dimension like any other,
and the caller chooses it; the openvino backend takes such a dimension since Triton 24.03.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dnexport.bundle.pack import MANIFEST
from dnexport.bundle.verify import Bundle
from dnexport.data.images import feed_from_pixels
from dnexport.runtimes.arrays import whole_batches

MARK = "# Made by dnexport"
CONFIG = "config.pbtxt"
_INPUT, _OUTPUT = "input", "logits"
# How long a first query waits for others: little beside a network's time on any device.
_QUEUE_DELAY_US = 100


class Word(str):
    """An enumerator of the text format: written without quotes."""


Message = list[tuple[str, "str | int | tuple[int, ...] | Message"]]


@dataclass(frozen=True)
class Backend:
    """What serves a target.

    Attributes:
        chosen: the field that says so, and its value.
        file: the engine's name below ``1/``.
        kind: of the instances.
        batches: it takes any number of images up to the largest.
    """

    chosen: tuple[str, str]
    file: str
    kind: Word
    batches: bool = True


BACKENDS = {
    "onnxruntime:cpu": Backend(("platform", "onnxruntime_onnx"), "model.onnx", Word("KIND_CPU")),
    "onnxruntime:cuda": Backend(("platform", "onnxruntime_onnx"), "model.onnx", Word("KIND_GPU")),
    "openvino:cpu": Backend(("backend", "openvino"), "model.onnx", Word("KIND_CPU"), batches=False),
    "tensorrt": Backend(("platform", "tensorrt_plan"), "model.plan", Word("KIND_GPU")),
}


@dataclass(frozen=True)
class Served:
    """A target of a bundle as Triton serves it.

    Attributes:
        bundle: verified.
        target: one of `BACKENDS` that has an engine.
    """

    bundle: Bundle
    target: str

    @property
    def backend(self) -> Backend:
        """What serves it."""
        return BACKENDS[self.target]

    @property
    def sizes(self) -> tuple[int, int]:
        """The smallest and the largest batch; only a plan is bound to the profile's smallest."""
        profile = self.bundle.manifest.recipe.profile
        return (profile.min_batch if self.target == "tensorrt" else 1), profile.max_batch

    @property
    def batched(self) -> bool:
        """Triton puts queries together."""
        return self.backend.batches and self.sizes[0] == 1

    @property
    def axis(self) -> tuple[int, ...]:
        """The batch as a dimension, -1 where it varies; nothing where it is Triton's."""
        low, high = self.sizes
        return () if self.batched else (high if low == high else -1,)

    @property
    def image(self) -> tuple[int, ...]:
        """The shape of one image as the engine takes it."""
        preprocess = self.bundle.manifest.preprocess
        (height, width), planes = preprocess.input_size, preprocess.planes
        return (height, width, planes) if self.takes_pixels else (planes, height, width)

    @property
    def takes_pixels(self) -> bool:
        """Bytes as they are, channels last; else normalised float32, channels first."""
        return self.bundle.manifest.recipe.input == "uint8"

    @property
    def data_type(self) -> Word:
        """Of the input."""
        return Word("TYPE_UINT8" if self.takes_pixels else "TYPE_FP32")


def write_model(served: Served, repository: Path) -> None:
    """Write the bundle's model into a model repository that has none of that name.

    Raises:
        IntegrityError: the golden samples cannot be read.
        OSError: the file system refuses.
    """
    manifest = served.bundle.manifest
    model = repository / manifest.recipe.name
    engine = served.bundle.engine(served.target)
    assert engine is not None
    for folder in ("1", "warmup"):
        (model / folder).mkdir(parents=True)
    shutil.copyfile(engine, model / "1" / served.backend.file)
    for batch, images in _warm_up(served).items():
        little_endian = images.astype(images.dtype.newbyteorder("<"))
        (model / "warmup" / f"golden-{batch}.raw").write_bytes(little_endian.tobytes())
    lines = [" ".join(name.splitlines()) for name in manifest.class_names]
    (model / "labels.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (model / CONFIG).write_text(_heading(served) + pbtxt(config_of(served)), encoding="ascii")


def config_of(served: Served) -> Message:
    """Triton's ``ModelConfig``."""
    manifest, axis = served.bundle.manifest, served.axis
    logits: Message = [
        ("name", _OUTPUT),
        ("data_type", Word("TYPE_FP32")),
        ("dims", (*axis, len(manifest.class_names))),
        ("label_filename", "labels.txt"),
    ]
    return [
        ("name", manifest.recipe.name),
        served.backend.chosen,
        ("default_model_filename", served.backend.file),
        ("max_batch_size", served.sizes[1] if served.batched else 0),
        ("input", [("name", _INPUT), ("data_type", served.data_type), ("dims", (*axis, *served.image))]),
        ("output", logits),
        ("instance_group", [("count", 1), ("kind", served.backend.kind)]),
        *_dynamic_batching(served),
        *_parameters(served),
        *(("model_warmup", _warm_up_message(served, batch)) for batch in _warm_up(served)),
    ]


def pbtxt(message: Message, indent: str = "") -> str:
    """A message in protobuf's text format, one field a line."""
    lines = []
    for name, value in message:
        if isinstance(value, list):
            lines.append(f"{indent}{name} {{\n{pbtxt(value, indent + '  ')}{indent}}}\n")
        elif isinstance(value, tuple):
            lines.append(f"{indent}{name}: [{', '.join(map(str, value))}]\n")
        else:
            written = _quoted(value) if isinstance(value, str) and not isinstance(value, Word) else str(value)
            lines.append(f"{indent}{name}: {written}\n")
    return "".join(lines)


def _quoted(text: str) -> str:
    """In quotes, every byte of UTF-8 that is not plain ASCII as three octal digits."""
    plain = (chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}" for byte in text.encode())
    return f'"{"".join(plain)}"'


def _dynamic_batching(served: Served) -> Message:
    profile = served.bundle.manifest.recipe.profile
    if not served.batched or profile.max_batch == 1:
        return []
    # Any queue holds a batch of one: were that size preferred, every image would go alone and at once.
    preferred = tuple(sorted({profile.opt_batch, profile.max_batch} - {1}))
    waiting: Message = [("preferred_batch_size", preferred), ("max_queue_delay_microseconds", _QUEUE_DELAY_US)]
    return [("dynamic_batching", waiting)]


def _parameters(served: Served) -> Message:
    """The backend's own, by the names of its documentation."""
    if served.target != "openvino:cpu":
        return []
    values = {"PERFORMANCE_HINT": "LATENCY"}
    executed = served.bundle.reports[served.target].executed_precision
    if executed is not None and executed.floats == "bf16":
        values["HINT_BF16"] = "YES"
    return [("parameters", [("key", key), ("value", [("string_value", values[key])])]) for key in values]


def _warm_up(served: Served) -> dict[int, np.ndarray]:
    """Golden images by batch, the smallest and the largest; where Triton batches, it repeats the one image it reads."""
    manifest, (low, high) = served.bundle.manifest, served.sizes
    feed = feed_from_pixels(served.bundle.golden().images[:high], manifest.preprocess)
    images = np.asarray(feed(manifest.recipe.input))
    return {b: images[:1] if served.batched else whole_batches(images, b)[:b] for b in sorted({low, high})}


def _warm_up_message(served: Served, batch: int) -> Message:
    dims = served.image if served.batched else (batch, *served.image)
    value: Message = [("data_type", served.data_type), ("dims", dims), ("input_data_file", f"golden-{batch}.raw")]
    taken: Message = [("key", _INPUT), ("value", value)]
    return [("name", f"golden-{batch}"), ("batch_size", batch if served.batched else 1), ("inputs", taken)]


def _heading(served: Served) -> str:
    """Which bundle this is of, and what goes in and comes out."""
    manifest, report = served.bundle.manifest, served.bundle.reports[served.target]
    preprocess = manifest.preprocess
    arithmetic = f"(x/255 - mean) / std, mean {list(preprocess.mean)}, std {list(preprocess.std)}, channels first"
    executed = str(report.executed_precision) if report.executed_precision else "not run where it was built"
    lines = [
        f"{MARK} of bundle {manifest.recipe.name}, whose {MANIFEST} has SHA-256",
        f"#   {served.bundle.digest}",
        f"# Target: {served.target}; asked: {manifest.recipe.precision}; executed: {executed}.",
        f"# Input: {preprocess};".replace("×", "x"),
        f"#   {'pixels as they are, channels last' if served.takes_pixels else arithmetic}.",
        f"# Output: logits; {'a sigmoid each' if manifest.multi_label else 'their softmax'} gives probabilities.",
    ]
    return "\n".join(lines) + "\n"
