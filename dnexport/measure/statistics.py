"""What a handful of samples allows to be said."""

import math
from collections.abc import Callable, Sequence

import numpy as np

CONFIDENCE = 0.99
# Of the normal distribution, two-sided 95 %.
Z95 = 1.959963984540054


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


def upper_bound(samples: Sequence[float], quantile: float, confidence: float = CONFIDENCE) -> float | None:
    """A sample that the quantile does not exceed with that confidence; None where `fewest_samples` is not reached.

    MLPerf's early stopping: the t-1 largest samples are set aside and the largest that is left is the bound, t as large
    as the binomial tail allows.
    """
    _, high = quantile_interval(samples, quantile, 1 - 2 * (1 - confidence))
    return high


def median(samples: Sequence[float]) -> float:
    """The median, for any number of samples."""
    return float(np.median(np.asarray(samples)))


def quantile_interval(
    samples: Sequence[float], quantile: float, confidence: float = 0.95
) -> tuple[float | None, float | None]:
    """Distribution-free interval of a quantile from order statistics; an end that no sample bounds is None.

    The k-th smallest of n samples lies above the q-quantile with probability P(Binomial(n, q) < k). Each end takes the
    sample nearest to the quantile that leaves at most half of what the confidence allows beyond it.
    """
    n, tail = len(samples), (1 - confidence) / 2
    below = np.cumsum(_binomial(n, quantile))  # below[k]: at most k samples lie below the quantile
    low = int(np.searchsorted(below, tail, side="right"))  # the largest k with P(X < k) ≤ tail
    high = int(np.searchsorted(below, 1 - tail - 1e-12)) + 1  # the smallest k with P(X ≥ k) ≤ tail
    ordered = sorted(samples)
    return (ordered[low - 1] if low >= 1 else None, ordered[high - 1] if high <= n else None)


def ratio_interval(
    starts: Sequence[Sequence[float]], confidence: float = 0.95
) -> tuple[float, float | None, float | None]:
    """A ratio measured in several sets of processes: its value and the two ends of its interval.

    Each set counts once, with the median of its rounds. Their logarithms are averaged, with Student's interval, which
    covers what differs within a set and what differs between sets (Kalibera, Jones 2013). One set has no interval.

    Args:
        starts: by set of processes, the ratios of its rounds.
        confidence: of the interval.
    """
    logs = np.log([median(rounds) for rounds in starts])
    middle = float(logs.mean())
    if len(logs) < 2:
        return math.exp(middle), None, None
    half = t_quantile(len(logs) - 1, confidence) * float(logs.std(ddof=1)) / math.sqrt(len(logs))
    return math.exp(middle), math.exp(middle - half), math.exp(middle + half)


def t_quantile(degrees: int, confidence: float) -> float:
    """The t that Student's distribution stays within, on both sides, with that confidence."""
    high = 1.0
    while _within_t(high, degrees) < confidence:
        high *= 2
    return _crossing(lambda t: confidence - _within_t(t, degrees), 0.0, high)


def _within_t(t: float, degrees: int) -> float:
    """P(|T| ≤ t) (Abramowitz, Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine = math.cos(angle)
    odd = degrees % 2
    term, series = (cosine if odd else 1.0), 0.0
    for k in range(1 + odd, degrees, 2):
        series += term
        term *= cosine * cosine * k / (k + 1)
    series *= math.sin(angle)
    return (angle + series) * 2 / math.pi if odd else series


def _binomial(n: int, p: float) -> np.ndarray:
    """Probabilities of 0 … n successes."""
    k = np.arange(n + 1)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    ways = factorials[n] - factorials[k] - factorials[n - k]
    return np.asarray(np.exp(ways + k * math.log(p) + (n - k) * math.log1p(-p)))


def share_interval(count: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a share, count of n (Wilson 1927)."""
    share, spread = count / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_drop_interval(lost: int, gained: int, n: int, z: float = Z95) -> tuple[float, float]:
    """Score interval of the drop (lost − gained)/n on the same n samples (Tango 1998), in shares.

    The ends are the drops Δ at which the score statistic reaches ±z:

        (lost − gained − n·Δ) / √(n·(2·q + Δ·(1 − Δ))),   q the likeliest share of gains where the drop is Δ

    Args:
        lost: samples that the reference has right and the engine wrong.
        gained: the other way round.
        n: all samples.
        z: of the normal distribution, for the confidence.
    """

    def score(drop: float) -> float:
        a, b, c = 2 * n, -lost - gained + (2 * n - lost + gained) * drop, -gained * drop * (1 - drop)
        q = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
        variance = n * (2 * q + drop * (1 - drop))
        difference = lost - gained - n * drop
        return difference / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, difference)

    middle = (lost - gained) / n
    return (
        middle if middle <= -1 else _crossing(lambda drop: score(drop) - z, -1.0, middle),
        middle if middle >= 1 else _crossing(lambda drop: score(drop) + z, middle, 1.0),
    )


def _crossing(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function is zero."""
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if function(middle) > 0 else (low, middle)
    return (low + high) / 2
