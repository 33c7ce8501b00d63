"""From images to the calibration table of a graph: ranges with their provenance."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir

from dnexport.calibrate.collect import histograms_from_batches, ranges_from_batches
from dnexport.calibrate.observers import MinMax, narrowed
from dnexport.data.images import InputBatch, PixelBatch, input_from_pixels
from dnexport.data.imageset import ImageSet, digest_from_pixels
from dnexport.errors import DataError
from dnexport.graph.contract import model_digest, model_from_path
from dnexport.graph.dense_blocks import states
from dnexport.graph.insert_qdq import quantization_points
from dnexport.graph.pool_before_conv import transition_pools
from dnexport.graph.values import name_of
from dnexport.spec.preprocess import Preprocess
from dnexport.spec.progress import Progress
from dnexport.spec.quantization import CalibrationSet, CalibrationTable, ChannelRanges, Convergence

_BATCH = 8
_CHECKPOINTS = 16


def table_from_images(
    graph: Path, images: ImageSet, preprocess: Preprocess, calibration_set: CalibrationSet, progress: Progress
) -> CalibrationTable:
    """Calibrate the canonical graph on images already drawn: one pass for ranges, another one for histograms.

    Raises:
        DataError: no images, one that cannot be decoded, or activations that are not finite.
    """
    if not len(images):
        raise DataError(f"the calibration set of {images.name} is empty", "give --calibration-data DIR with images")
    model = model_from_path(graph)
    digest, tensors = model_digest(model), quantization_points(model)
    passes = 1 if calibration_set.observer == "minmax" else 2
    seen: list[str] = []
    flat: list[bool] = []
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        done += count
        progress.advance(done, passes * len(images))

    def batch_seen(pixels: PixelBatch) -> PixelBatch:
        seen.extend(digest_from_pixels(image) for image in pixels)
        flat.extend(bool((image == image[0, 0]).all()) for image in pixels)
        return pixels

    first = (input_from_pixels(batch_seen(pixels), preprocess) for pixels in images.batches(preprocess, _BATCH))
    found = ranges_from_batches(model, tensors, first, tick, _by_channel(model))
    ranges = {tensor: observer.range(tensor) for tensor, observer in found.ranges.items()}
    if calibration_set.observer != "minmax":
        histograms = histograms_from_batches(model_from_path(graph), ranges, _inputs(images, preprocess), tick)
        ranges = {tensor: narrowed(histogram, calibration_set) for tensor, histogram in histograms.items()}
    names = images.classes if images.answers is None else ()
    counts = Counter(label for label in images.labels if label >= 0)
    return CalibrationTable(
        calibration_set=calibration_set,
        image_digests=tuple(seen),
        graph_digest=digest,
        preprocess_digest=preprocess.content_digest(),
        synthetic=images.name == "synthetic",
        flat=sum(flat),
        coverage={name: counts[index] for index, name in enumerate(names)},
        convergence=_convergence(found.ranges, len(images)),
        ranges=ranges,
        channels={
            tensor: ChannelRanges(lo=tuple(map(float, lo)), hi=tuple(map(float, hi)))
            for tensor, (lo, hi) in found.channels.items()
        },
    )


def _by_channel(model: ir.Model) -> tuple[str, ...]:
    """What is equalised: the states of dense blocks, and both sides of the transitions' pooling."""
    pooled = [name_of(value) for pool in transition_pools(model) for value in (pool.inputs[0], pool.outputs[0])]
    return tuple(dict.fromkeys((*states(model), *pooled)))


def _inputs(images: ImageSet, preprocess: Preprocess) -> Iterator[InputBatch]:
    return (input_from_pixels(pixels, preprocess) for pixels in images.batches(preprocess, _BATCH))


def _convergence(observers: Mapping[str, MinMax], images: int) -> tuple[Convergence, ...]:
    """How far the scales of all that was seen are from those of fewer images."""
    counts = [int(count) for count in np.unique(np.linspace(1, images, _CHECKPOINTS).round())]
    scales = np.array([[observer.scale_after(count) for count in counts] for observer in observers.values()])
    final = scales[:, -1:]
    shares = np.divide(scales, final, out=np.ones_like(scales), where=final > 0)
    moves = np.abs(1 - shares).max(axis=0)
    return tuple(Convergence(images=count, largest_move=float(move)) for count, move in zip(counts, moves, strict=True))
