"""Round weights to int8 so that the errors of a convolution's taps compensate each other on real activations.

Nearest rounding minimises the error of each weight; what counts is the error of their sum. GPTQ (Frantar et al. 2023,
after Hassibi, Stork 1993) rounds a column of W at a time and lets the columns that are left take up its error along the
inverse of the activations' covariance H:

    q_i = round(W_i / s),   W_j ← W_j − (W_i − s·q_i) · [H⁻¹]_ij / [H⁻¹]_ii      for j > i

What remains of the mean error goes into the bias:

    b ← b + W · mean(x) − Ŵ · mean(x̂)        x̂ the quantized activations

Each convolution's inputs are looked at on a sample of positions, and only sums are kept. The covariances of a wide
network's 3×3 convolutions take many gigabytes together (some 20 for densenet-100-24), so the images are passed over as
often as their memory asks for; the result does not depend on it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from scipy.linalg.lapack import dtrtri

from dnexport.calibrate.collect import activations
from dnexport.data.images import InputPart
from dnexport.errors import DataError
from dnexport.graph.centre_activations import centring, read_with_padding
from dnexport.graph.insert_qdq import activation_scale, quantized_weight
from dnexport.graph.values import constant_array, name_of
from dnexport.spec.quantization import INT8_MAX, CalibrationTable, Centring

_SAMPLES_PER_TAP = 4
_LEAST_POSITIONS = 32
_BLOCK = 64  # columns whose errors reach the rest in one product
_COVARIANCE_BYTES = 2 << 30  # held at a time
_DAMPING = 0.01  # of the mean variance, as in GPTQ: a covariance of few samples has directions without any


@dataclass(frozen=True)
class Rounded:
    """A convolution's weights and what its bias needs.

    Attributes:
        codes: int8, of the weight's shape.
        bias: float32 [outputs], to be added to the bias.
    """

    codes: np.ndarray
    bias: np.ndarray


@dataclass
class _Seen:
    """Sums over what one convolution reads."""

    conv: ir.Node
    weight: np.ndarray
    scale: float
    centre: float
    covariance: np.ndarray
    total: np.ndarray
    total_quantized: np.ndarray
    count: int = 0
    kernel: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self.kernel = (self.weight.shape[2], self.weight.shape[3])


def rounded_weights(
    model: ir.Model,
    table: CalibrationTable,
    images: Callable[[], Iterable[InputPart]],
    count: int,
    *,
    centre: Centring,
    compensate: bool,
    tick: Callable[[int, int], None],
    memory_bytes: int = _COVARIANCE_BYTES,
) -> dict[str, Rounded]:
    """Codes and bias corrections of all convolutions that the table quantizes, by the name of their output.

    Args:
        model: the float graph that will be quantized.
        table: ranges of its tensors.
        images: a fresh iteration over the preprocessed images; taken one by one, whatever their batches.
        count: of the images.
        centre: which activations will be centred (`graph.centre_activations`).
        compensate: round as GPTQ does; else to the nearest code.
        tick: told how many of how many images are done, those of all passes together.
        memory_bytes: for the covariances of one pass; a convolution that needs more has a pass of its own.

    Raises:
        DataError: an activation is not finite.
    """
    convs = [conv for conv in model.graph if conv.op_type == "Conv" and _quantized(conv, table)]
    passes = _passes(convs, memory_bytes if compensate else None)
    found: dict[str, Rounded] = {}
    for number, indices in enumerate(passes):
        seen = {index: _seen(convs[index], table, centre, compensate) for index in indices}
        names = [name_of(each.conv.inputs[0]) for each in seen.values()]
        for done, image in enumerate(activations(model, names, iter(images())), start=1):
            for index, each in seen.items():
                _look(each, image[name_of(each.conv.inputs[0])], count, np.random.default_rng([index, done]))
            tick(number * count + done, len(passes) * count)
        while seen:  # a covariance is let go of once it is used
            each = seen.pop(next(iter(seen)))
            found[name_of(each.conv.outputs[0])] = _rounded(each, compensate)
    return found


def _passes(convs: Sequence[ir.Node], memory_bytes: int | None) -> list[list[int]]:
    """Convolutions by pass, in order; all in one where memory does not matter."""
    passes: list[list[int]] = [[]]
    held = 0
    for index, conv in enumerate(convs):
        weight = constant_array(conv.inputs[1])
        assert weight is not None
        needed = conv.attributes.get_int("group", 1) * int(np.prod(weight.shape[1:])) ** 2 * np.float32().nbytes
        if memory_bytes is not None and passes[-1] and held + needed > memory_bytes:
            passes.append([])
            held = 0
        passes[-1].append(index)
        held += needed
    return passes


def _quantized(conv: ir.Node, table: CalibrationTable) -> bool:
    return constant_array(conv.inputs[1]) is not None and name_of(conv.inputs[0]) in table.ranges


def _seen(conv: ir.Node, table: CalibrationTable, centre: Centring, compensate: bool) -> _Seen:
    weight = constant_array(conv.inputs[1])
    assert weight is not None
    groups, taps = conv.attributes.get_int("group", 1), int(np.prod(weight.shape[1:]))
    zeros = np.zeros((groups, taps), np.float64)
    # Of a wide 3×3 convolution hundreds of megabytes; rounding to the nearest does not ask for it.
    covariance = np.zeros((groups, taps, taps) if compensate else (groups, 0, 0), np.float32)
    found = table.ranges[name_of(conv.inputs[0])]
    centred = centre == "all" or (centre == "pointwise" and not read_with_padding(conv.inputs[0]))
    middle, scale = centring(found) if centred else (0.0, activation_scale(found))
    return _Seen(conv, weight, scale, middle, covariance, zeros, zeros.copy())


def _look(each: _Seen, x: np.ndarray, images: int, generator: np.random.Generator) -> None:
    if not np.isfinite(x).all():
        raise DataError(
            f"activation '{name_of(each.conv.inputs[0])}' is not finite on the calibration images",
            "check the weights and the images",
        )
    groups, taps = each.total.shape
    wanted = max(_LEAST_POSITIONS, -(-_SAMPLES_PER_TAP * taps // images))
    patches = _patches(each, x[0], wanted, generator).reshape(groups, taps, -1)
    # Padding is zero on either side: 0 is a code, and centring puts back what the border lacks.
    codes = np.clip(np.round((patches - np.float32(each.centre)) / np.float32(each.scale)), -INT8_MAX - 1, INT8_MAX)
    quantized = codes * np.float32(each.scale) + np.float32(each.centre)
    if each.covariance.size:
        each.covariance += quantized @ quantized.transpose(0, 2, 1)
    each.total += patches.sum(axis=2)
    each.total_quantized += quantized.sum(axis=2)
    each.count += patches.shape[2]


def _patches(each: _Seen, x: np.ndarray, wanted: int, generator: np.random.Generator) -> np.ndarray:
    """What a convolution multiplies with its weights at some of its positions: [channels · taps, positions]."""
    attributes = each.conv.attributes
    top, left, bottom, right = attributes.get_ints("pads", [0, 0, 0, 0])
    stride, dilation = attributes.get_ints("strides", [1, 1]), attributes.get_ints("dilations", [1, 1])
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    reach = [(k - 1) * d + 1 for k, d in zip(each.kernel, dilation, strict=True)]
    height, width = ((padded.shape[i + 1] - reach[i]) // stride[i] + 1 for i in (0, 1))
    chosen = generator.permutation(height * width)[:wanted]
    rows, columns = chosen // width * stride[0], chosen % width * stride[1]
    taps = [
        padded[:, rows + i * dilation[0], columns + j * dilation[1]]
        for i in range(each.kernel[0])
        for j in range(each.kernel[1])
    ]
    return np.stack(taps, axis=1).reshape(-1, len(chosen))


def _rounded(each: _Seen, compensate: bool) -> Rounded:
    codes, scale = quantized_weight(each.weight)
    groups, taps = each.total.shape
    mean, mean_quantized = each.total / each.count, each.total_quantized / each.count
    weight = each.weight.reshape(groups, -1, taps).astype(np.float64)
    scales = scale.reshape(groups, -1).astype(np.float64)
    if compensate:
        centred = each.covariance / each.count - mean_quantized[:, :, None] * mean_quantized[:, None, :]
        grouped = [_compensated(weight[g], centred[g], scales[g]) for g in range(groups)]
        codes = np.stack(grouped).reshape(each.weight.shape).astype(np.int8)
    held = codes.reshape(groups, -1, taps) * scales[:, :, None]
    bias = np.einsum("got,gt->go", weight, mean) - np.einsum("got,gt->go", held, mean_quantized)
    return Rounded(codes, bias.reshape(-1).astype(np.float32))


def _compensated(weight: np.ndarray, covariance: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Codes of [outputs, taps] weights, the taps of greatest variance first."""
    variance = covariance.diagonal()
    order = np.argsort(-variance, kind="stable")
    damped = covariance[np.ix_(order, order)].astype(np.float64)
    damped += np.eye(len(order)) * (_DAMPING * max(float(variance.mean()), 1e-12))
    # U, upper triangular with H⁻¹ = UᵀU: row i of U over U_ii is row i of the inverse of what is left of H at step i.
    # It is the inverse of the factor in H = F·Fᵀ with F upper triangular, which is cholesky's on the reversed order.
    factor = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]
    upper, _ = dtrtri(factor)
    left, codes = weight[:, order].copy(), np.zeros_like(weight)
    for first in range(0, len(order), _BLOCK):
        last = min(first + _BLOCK, len(order))
        errors = np.empty((len(weight), last - first))
        for i in range(first, last):
            codes[:, i] = np.clip(np.round(left[:, i] / scale), -INT8_MAX, INT8_MAX)
            errors[:, i - first] = (left[:, i] - codes[:, i] * scale) / upper[i, i]
            left[:, i:last] -= errors[:, i - first, None] * upper[i, i:last]
        left[:, last:] -= errors @ upper[first:last, last:]
    result = np.zeros_like(codes)
    result[:, order] = codes
    return result
