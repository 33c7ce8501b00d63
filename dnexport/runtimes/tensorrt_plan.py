"""A TensorRT plan as a file: whether it may load here, the engine in it, and what that takes and gives."""

import importlib
import importlib.util
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dnexport.errors import BadInput, BuildFailed
from dnexport.runtimes.gpu import gpu_names

# First bytes of a plan of TensorRT for RTX, as version 1.7 writes them.
_RTX_MAGIC = b"vtrt"
_REASONS = {
    "VERSION_MISMATCH": "another version of TensorRT for RTX built it",
    "UNSUPPORTED_CC": "it was not built for this GPU's compute capability",
    "OLD_CUDA_DRIVER": "the CUDA driver is too old for it",
    "OLD_CUDA_RUNTIME": "the CUDA runtime is too old for it",
    "INSUFFICIENT_GPU_MEMORY": "the GPU has too little memory for it",
    "MALFORMED_ENGINE": "the file is damaged",
    "CUDA_ERROR": "CUDA's driver or runtime is not installed right",
}
_TYPES = {"FLOAT": "float32", "HALF": "float16", "UINT8": "uint8", "INT8": "int8", "INT32": "int32", "INT64": "int64"}
_LAYOUTS = {"uint8": "[batch, height, width, channels]"}


def reason_against(engine: Path) -> str | None:
    """Why a plan does not load here, read off its header; None if it may.

    Only TensorRT for RTX has such a check; of a plan of TensorRT nothing is known before it is deserialized. The check
    reads the header alone, so a file that was cut behind it passes. Where no GPU is, it knows damage and nothing else:
    it calls every plan invalid without a reason, and None is answered.
    """
    with engine.open("rb") as file:
        if not (magic := file.read(len(_RTX_MAGIC))):
            return "the file is empty"
        if magic != _RTX_MAGIC or importlib.util.find_spec("tensorrt_rtx") is None:
            return None
        trt = importlib.import_module("tensorrt_rtx")
        logger = recording_logger(trt)
        runtime = trt.Runtime(logger)
        header = magic + file.read(runtime.engine_header_size - len(magic))
    validity, bits = runtime.get_engine_validity(header)
    if validity != trt.EngineValidity.INVALID:
        return None
    named = [name for name, value in trt.EngineInvalidityDiagnostics.__members__.items() if int(value) & bits]
    if named:
        return " and ".join(_REASONS.get(name, name) for name in named)
    return (logger.lines or ["the library calls it invalid and does not say why"])[0] if gpu_names() else None


@dataclass(frozen=True)
class Tensor:
    """One input or output of a plan.

    Attributes:
        name: of it.
        dtype: NumPy's name of its type.
        least: its shape at the smallest batch.
        most: its shape at the largest.
    """

    name: str
    dtype: str
    least: tuple[int, ...]
    most: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes at the largest batch."""
        return int(np.prod(self.most)) * np.dtype(self.dtype).itemsize


def tensor_from_profile(name: str, dtype: str, shape: Sequence[int], profile: Sequence[Sequence[int]]) -> Tensor:
    """A plan's input as its profile bounds it.

    Args:
        name: of it.
        dtype: TensorRT's name of its type.
        shape: of the plan; −1 where it is open.
        profile: its least, best and largest shape.

    Raises:
        BuildFailed: a type that sessions do not run.
    """
    if dtype not in _TYPES:
        known = ", ".join(_TYPES)
        raise BuildFailed(f"the plan's tensor '{name}' is {dtype}, which is none of {known}", "build it with dnexport")
    least, most = (profile[0], profile[-1]) if -1 in shape else (shape, shape)
    return Tensor(name, _TYPES[dtype], tuple(least), tuple(most))


def check_images(images: np.ndarray, taken: Tensor) -> None:
    """Refuse a batch that a plan does not take.

    Raises:
        BadInput: another type, another layout or size, or a batch outside of the profile.
    """
    batches = f"{taken.least[0]} to {taken.most[0]}" if taken.least[0] != taken.most[0] else str(taken.most[0])
    layout = _LAYOUTS.get(taken.dtype, "[batch, channels, height, width]")
    expected = f"{taken.dtype} {layout} of {'×'.join(map(str, taken.most[1:]))}, batch {batches}"
    got = f"{images.dtype} {list(images.shape)}"
    if images.dtype != taken.dtype or images.shape[1:] != taken.most[1:]:
        raise BadInput(
            f"the engine takes {expected}, and got {got}", "give images as the bundle's preprocess makes them"
        )
    if not taken.least[0] <= len(images) <= taken.most[0]:
        raise BadInput(
            f"the engine takes {expected}, and got a batch of {len(images)}",
            "split the images, or build with another --batch",
        )


def ends_in_words(inputs: Iterable[tuple[str, str]], outputs: Iterable[tuple[str, str]]) -> str:
    """Names and types, TensorRT's or NumPy's, of what goes in and what comes out."""
    taken = [f"input {name} {_TYPES.get(kind, kind)}" for name, kind in inputs]
    return ", ".join([*taken, *(f"output {name} {_TYPES.get(kind, kind)}" for name, kind in outputs)])


def loaded_engine(trt: Any, engine: Path) -> tuple[Any, Any]:
    """The library's runtime, which must outlive the engine, and the engine.

    A plan is native code, so it may bring a runtime of its own only where it cannot do without: version-compatible
    plans hold one, and the library says that it needs leave to load it. Whoever calls has checked the file's digest.

    Raises:
        BuildFailed: the library refuses the plan, with its own reason.
    """
    plan, logger = engine.read_bytes(), recording_logger(trt)
    runtime = trt.Runtime(logger)
    loaded = runtime.deserialize_cuda_engine(plan)
    if loaded is None and any("EngineHostCodeAllowed" in line for line in logger.lines):
        runtime.engine_host_code_allowed = True
        loaded = runtime.deserialize_cuda_engine(plan)
    if loaded is None:
        reason = logger.lines[0] if logger.lines else "it does not say why"
        raise BuildFailed(
            f"{trt.__name__} {trt.__version__} does not load {engine}: {reason}",
            "build it on this machine with 'dnexport compile'",
        )
    return runtime, loaded


def recording_logger(trt: Any) -> Any:
    """A logger that keeps errors in ``lines`` instead of printing them."""

    class Recorder(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.lines.append(message.strip())

    return Recorder()
