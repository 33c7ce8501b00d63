"""From a module to ONNX: PyTorch's dynamo exporter, a symbolic batch, checked against PyTorch before anyone sees it."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import nn

from dnexport.data.images import InputBatch
from dnexport.errors import ParityFailed
from dnexport.runtimes.arrays import Logits
from dnexport.runtimes.onnxruntime import float_session

OPSET = 19
INPUT, OUTPUT = "input", "logits"
# Of the largest logit: float rounding over 120 layers stays a hundred times below.
TOLERANCE = 1e-4
# Some very deep networks of random weights (dpn131) amplify rounding beyond that: there PyTorch is as far from its own
# float64 result, and two float32 results may differ by what each may be off.
_OWN_ROUNDINGS = 2.0


def export_onnx(module: nn.Module, images: InputBatch, path: Path) -> None:
    """Write ``path`` with input ``input`` [batch, channels, height, width] and output ``logits`` [batch, classes].

    Args:
        module: in evaluation mode.
        images: at least two, traced and compared.
        path: of the ONNX file.

    Raises:
        ParityFailed: ONNX Runtime's logits differ from PyTorch's by more than `TOLERANCE` of the largest, and by more
            than PyTorch's own rounding explains.
    """
    sample = torch.from_numpy(images[:2])
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            (sample,),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        program.save(path)
    reference = reference_logits(module, images)
    check_logits(
        "the exported graph",
        graph_logits(path, images),
        "PyTorch",
        reference,
        lambda: _rounding(module, images, reference),
    )


def reference_logits(module: nn.Module, images: InputBatch, batch: int = 32) -> Logits:
    """PyTorch's FP32 logits, the reference of everything."""
    with torch.inference_mode():
        parts = [module(torch.from_numpy(images[i : i + batch])).numpy() for i in range(0, len(images), batch)]
    return np.concatenate(parts)


def _rounding(module: nn.Module, images: InputBatch, reference: Logits) -> float:
    """How far the FP32 logits are from those in float64, at most."""
    with torch.inference_mode():
        exact = copy.deepcopy(module).double()(torch.from_numpy(images).double()).numpy()
    return float(np.abs(exact - reference).max())


def compare_graphs(before: Path, after: Path, images: InputBatch) -> None:
    """Compare a rewritten FP32 graph with the one it came from, on ONNX Runtime.

    Raises:
        ParityFailed: the largest difference is above `TOLERANCE` of the largest logit.
    """
    check_logits("the rewritten graph", graph_logits(after, images), "the exported one", graph_logits(before, images))


def graph_logits(path: Path, images: InputBatch) -> Logits:
    """Logits of a graph on ONNX Runtime's CPU provider."""
    logits: Logits = float_session(path).run([OUTPUT], {INPUT: images})[0]
    return logits


def check_logits(
    what: str, logits: Logits, other: str, reference: Logits, rounding: Callable[[], float] | None = None
) -> None:
    """Refuse an FP32 graph that computes something else than what it was made from.

    Args:
        what: of the graph.
        logits: its answers.
        other: what it was made from.
        reference: that one's answers.
        rounding: how far those are from exact ones; asked only where the tolerance is exceeded.

    Raises:
        ParityFailed: the largest difference is above `TOLERANCE` of the largest logit, and above what rounding
            explains.
    """
    error, scale = float(np.abs(logits - reference).max()), float(np.abs(reference).max())
    if not error <= TOLERANCE * scale and not (rounding and error <= _OWN_ROUNDINGS * rounding()):
        raise ParityFailed(
            f"{what} differs from {other} by {error:.3g} where the largest logit is {scale:.3g}",
            "report this with the arch; nothing was written",
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter prints, logs and warns about optional packages and its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
