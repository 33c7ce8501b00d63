"""Observers turn what is seen of a tensor into the range that its scale covers.

``minmax`` takes all of it. The others look at a histogram of `BINS` fixed bins over that range, filled in a second
pass, and may leave the ends to be clipped:

- ``percentile``: the ends beyond which 100 − p per cent of the values lie, half of them on either side that is not 0.
- ``entropy``: the magnitude at which the quantized distribution has the smallest Kullback-Leibler divergence from the
  clipped one (Migacz, *8-bit Inference with TensorRT*, GTC 2017).
- ``mse``: the magnitude at which rounding and clipping together have the smallest mean squared error.

Memory does not grow with the number of images, and neither their order nor the batch size matters.
"""

import bisect

import numpy as np
from jaxtyping import Float, Float32, Int64

from dnexport.errors import DataError
from dnexport.spec.quantization import INT8_MAX, CalibrationSet, Range

BINS = 2048
_LEVELS = INT8_MAX + 1
_CANDIDATES = 128


class MinMax:
    """The range of all values seen of one tensor, and how it grew."""

    def __init__(self) -> None:
        self._lo, self._hi = np.inf, -np.inf
        self._seen, self._grew = 0, [(0, 0.0)]

    def update(self, lows: Float32[np.ndarray, " batch"], highs: Float32[np.ndarray, " batch"]) -> None:
        """Take the least and greatest value of each image of a batch."""
        for low, high in zip(lows, highs, strict=True):
            # fmin and fmax would hide a NaN; min and max carry it to `range`.
            self._lo, self._hi = np.minimum(self._lo, low), np.maximum(self._hi, high)
            self._seen += 1
            scale = float(np.maximum(np.abs(self._lo), np.abs(self._hi))) / INT8_MAX
            if scale != self._grew[-1][1]:  # seldom, once many images were seen
                self._grew.append((self._seen, scale))

    def scale_after(self, images: int) -> float:
        """The symmetric scale of the first so many images."""
        return self._grew[bisect.bisect_right(self._grew, images, key=lambda grew: grew[0]) - 1][1]

    def range(self, tensor: str) -> Range:
        """The range; ``tensor`` is named in errors.

        Raises:
            DataError: nothing was seen, or a value was not finite.
        """
        if not np.isfinite([self._lo, self._hi]).all():
            raise DataError(
                f"activation '{tensor}' is not finite on the calibration images", "check the weights and the images"
            )
        return Range(lo=float(self._lo), hi=float(self._hi))


class Histogram:
    """Counts of one tensor's values in equal bins over its range.

    Args:
        seen: the range, which no value leaves.
    """

    def __init__(self, seen: Range) -> None:
        self.seen = seen
        self.counts: Int64[np.ndarray, " bins"] = np.zeros(BINS, np.int64)

    def update(self, values: Float[np.ndarray, "..."]) -> None:
        """Take values of any shape."""
        span = self.seen.hi - self.seen.lo
        if span > 0:
            index = ((values.ravel() - np.float32(self.seen.lo)) * np.float32(BINS / span)).astype(np.int64)
            self.counts += np.bincount(index.clip(0, BINS - 1), minlength=BINS)

    @property
    def centres(self) -> Float[np.ndarray, " bins"]:
        """The middle of each bin."""
        edges = np.linspace(self.seen.lo, self.seen.hi, BINS + 1)
        return (edges[1:] + edges[:-1]) / 2


def narrowed(histogram: Histogram, how: CalibrationSet) -> Range:
    """The range that an observer other than ``minmax`` chooses."""
    if not histogram.counts.any():
        return histogram.seen
    if how.observer == "percentile":
        return _percentile(histogram, how.percentile)
    find = {"entropy": _entropy_threshold, "mse": _mse_threshold}[how.observer]
    threshold = find(histogram)
    return Range(lo=max(histogram.seen.lo, -threshold), hi=min(histogram.seen.hi, threshold))


def _percentile(histogram: Histogram, percentile: float) -> Range:
    beyond = (1 - percentile / 100) * histogram.counts.sum()
    one_sided = histogram.seen.lo >= 0 or histogram.seen.hi <= 0
    share = beyond if one_sided else beyond / 2
    edges = np.linspace(histogram.seen.lo, histogram.seen.hi, BINS + 1)
    below, above = np.cumsum(histogram.counts), np.cumsum(histogram.counts[::-1])[::-1]
    lo, hi = histogram.seen.lo, histogram.seen.hi
    if lo < 0:
        lo = min(float(edges[np.searchsorted(below, share, side="right")]), 0.0)
    if hi > 0:
        hi = max(float(edges[BINS - np.searchsorted(above[::-1], share, side="right")]), 0.0)
    return Range(lo=lo, hi=hi)


def _magnitudes(histogram: Histogram) -> tuple[np.ndarray, float]:
    """Counts over `BINS` bins of |x|, and the width of a bin."""
    largest = max(abs(histogram.seen.lo), abs(histogram.seen.hi))
    width = largest / BINS
    index = (np.abs(histogram.centres) / width).astype(np.int64).clip(0, BINS - 1)
    return np.bincount(index, weights=histogram.counts, minlength=BINS), width


def _candidates() -> Int64[np.ndarray, " candidates"]:
    return np.unique(np.linspace(_LEVELS, BINS, _CANDIDATES).astype(np.int64))


def _mse_threshold(histogram: Histogram) -> float:
    counts, width = _magnitudes(histogram)
    x = (np.arange(BINS) + 0.5) * width
    errors = []
    for bins in _candidates():
        scale = bins * width / INT8_MAX
        errors.append(float((counts * (np.round(x / scale).clip(max=INT8_MAX) * scale - x) ** 2).sum()))
    return float(_candidates()[int(np.argmin(errors))] * width)


def _entropy_threshold(histogram: Histogram) -> float:
    counts, width = _magnitudes(histogram)
    # Behind a ReLU most values are 0, which every scale holds exactly; left in, they would drown the rest. The first
    # bin gets its neighbour's count, as in NVIDIA's pytorch-quantization.
    counts[0] = counts[1]
    if not counts.any():
        return float(BINS * width)
    divergences = [_divergence(counts, int(bins)) for bins in _candidates()]
    return float(_candidates()[int(np.argmin(divergences))] * width)


def _divergence(counts: np.ndarray, bins: int) -> float:
    """Of the first ``bins`` bins, with what lies beyond them added to the last, from their quantized form."""
    kept = counts[:bins]
    reference = kept.copy()
    reference[-1] += counts[bins:].sum()
    level = np.arange(bins) * _LEVELS // bins
    filled = kept > 0
    total = np.bincount(level, weights=kept, minlength=_LEVELS)
    occupied = np.bincount(level, weights=filled, minlength=_LEVELS)
    quantized = np.where(filled, (total / np.maximum(occupied, 1))[level], 0.0)
    p, q = reference / reference.sum(), quantized / max(quantized.sum(), 1)
    both = (p > 0) & (q > 0)
    if not both.any():
        return float("inf")
    # Mass where the quantized form has none counts as if a bin held a ten-thousandth of its share.
    lost = p[(p > 0) & (q == 0)]
    return float((p[both] * np.log(p[both] / q[both])).sum() + (lost * np.log(lost / (lost * 1e-4))).sum())
