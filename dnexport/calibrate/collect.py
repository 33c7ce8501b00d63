"""Run a graph over images and look at its tensors.

The ranges are reduced inside of the graph: two scalars an image and tensor come out, not the tensor. Where tensors
themselves are needed, one image's are held at a time; all of densenet121's take 175 MB an image.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from dnexport.calibrate.observers import Histogram, MinMax
from dnexport.data.images import InputPart
from dnexport.errors import GraphError
from dnexport.graph.contract import INPUT
from dnexport.graph.values import add_initializer
from dnexport.runtimes.onnxruntime import float_session
from dnexport.spec.quantization import Range

if TYPE_CHECKING:
    import onnxruntime

Tick = Callable[[int], None]


@dataclass(frozen=True)
class Seen:
    """What a pass over images found.

    Attributes:
        ranges: of whole tensors.
        channels: the least and the greatest value of each channel, float32 [channels] both.
    """

    ranges: dict[str, MinMax]
    channels: dict[str, tuple[np.ndarray, np.ndarray]]


def ranges_from_batches(
    model: ir.Model, tensors: Sequence[str], batches: Iterable[InputPart], tick: Tick, by_channel: Sequence[str] = ()
) -> Seen:
    """The ranges of ``tensors`` over ``batches`` and how they grew, and those of channels of others.

    Args:
        model: float graph; changed by this function, pass a copy.
        tensors: names of values in the graph.
        batches: float32 inputs.
        tick: told the number of images after each batch.
        by_channel: names of values in the graph whose channels are told apart.

    Raises:
        GraphError: a tensor is not in the graph.
    """
    session = _tapped_session(model, tensors, by_channel)
    observers = {tensor: MinMax() for tensor in tensors}
    channels: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for images in batches:
        extremes = iter(session.run(None, {INPUT: images})[1:])
        for tensor in tensors:
            observers[tensor].update(next(extremes), next(extremes))
        for tensor in by_channel:
            low, high = next(extremes).min(axis=0), next(extremes).max(axis=0)
            before = channels.get(tensor, (low, high))
            channels[tensor] = np.minimum(low, before[0]), np.maximum(high, before[1])
        tick(len(images))
    return Seen(observers, channels)


def histograms_from_batches(
    model: ir.Model, ranges: Mapping[str, Range], batches: Iterable[InputPart], tick: Tick
) -> dict[str, Histogram]:
    """Histograms of tensors over their ranges."""
    histograms = {tensor: Histogram(seen) for tensor, seen in ranges.items()}
    for found in activations(model, list(ranges), batches):
        for tensor, histogram in histograms.items():
            histogram.update(found[tensor])
        tick(1)
    return histograms


def activations(
    model: ir.Model, tensors: Sequence[str], batches: Iterable[InputPart]
) -> Iterator[dict[str, np.ndarray]]:
    """The named tensors of one image after the other, each [1, …].

    Raises:
        GraphError: a tensor is not in the graph.
    """
    values = _values(model, tensors)
    taps = [name for name in dict.fromkeys(tensors) if name != INPUT]
    proto = ir.to_proto(model)
    proto.graph.output.extend(ir.serde.serialize_value(values[name]) for name in taps)
    session = float_session(proto.SerializeToString())
    for batch in batches:
        for image in batch:
            found = dict(zip(taps, session.run(taps, {INPUT: image[None]}), strict=True))
            yield {**found, INPUT: image[None]}


def _values(model: ir.Model, tensors: Sequence[str]) -> dict[str | None, ir.Value]:
    graph = model.graph
    values = {value.name: value for value in (*graph.inputs, *(output for node in graph for output in node.outputs))}
    if (absent := next((tensor for tensor in tensors if tensor not in values), None)) is not None:
        raise GraphError(f"the graph has no tensor '{absent}'", "calibrate this very graph again")
    return values


def _tapped_session(
    model: ir.Model, tensors: Sequence[str], by_channel: Sequence[str]
) -> "onnxruntime.InferenceSession":
    """The graph with the logits first, then least and greatest values of each tensor, and of each channel."""
    graph, values = model.graph, _values(model, (*tensors, *by_channel))
    whole = add_initializer(model, "tap_axes", np.array([1, 2, 3], np.int64))
    pixels = add_initializer(model, "tap_pixels", np.array([2, 3], np.int64))
    for index, (tensor, axes) in enumerate([*((t, whole) for t in tensors), *((c, pixels) for c in by_channel)]):
        for operator, end in (("ReduceMin", "low"), ("ReduceMax", "high")):
            node = ir.node(operator, [values[tensor], axes], attributes={"keepdims": 0}, name=f"tap{index}_{end}")
            node.outputs[0].name = f"tap{index}_{end}"
            node.outputs[0].dtype = ir.DataType.FLOAT
            node.outputs[0].shape = ir.Shape(["batch"] if axes is whole else ["batch", None])
            graph.append(node)
            graph.outputs.append(node.outputs[0])
    return float_session(ir.to_proto(model).SerializeToString())
