"""What a handful of samples allows to be said."""

import math
from collections.abc import Sequence

import numpy as np

CONFIDENCE = 0.99


def fewest_samples(quantile: float, confidence: float = CONFIDENCE) -> int:
    """Samples below which nothing bounds a quantile from above.

    The largest of n samples lies above the q-quantile with probability 1 − qⁿ; n is enough when that reaches the
    confidence: 44 for p90, 90 for p95, 459 for p99 (the first step of MLPerf's early stopping, where t = 1).
    """
    return math.ceil(math.log(1 - confidence) / math.log(quantile))


def percentile(samples: Sequence[float], quantile: float) -> float | None:
    """The nearest-rank percentile, an observed sample; None where `fewest_samples` is not reached."""
    if len(samples) < fewest_samples(quantile):
        return None
    return sorted(samples)[math.ceil(quantile * len(samples)) - 1]


def median(samples: Sequence[float]) -> float:
    """The median, for any number of samples."""
    return float(np.median(np.asarray(samples)))


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Distribution-free interval of the median from order statistics; None where n is too small (n < 6 for 95 %).

    Between the k-th smallest and the k-th largest of n samples lies the median with probability
    1 − 2·P(Binomial(n, ½) < k); the largest k that keeps the confidence is taken.
    """
    n = len(samples)
    tail, k = 0.0, 0
    while k < n // 2 and 2 * (tail + math.comb(n, k) / 2**n) <= 1 - confidence:
        tail += math.comb(n, k) / 2**n
        k += 1
    if k == 0:
        return None
    ordered = sorted(samples)
    return ordered[k - 1], ordered[n - k]
