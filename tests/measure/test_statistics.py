import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dnexport.measure.statistics import fewest_samples, median, median_interval, percentile

samples = st.lists(st.floats(0.01, 1e4), min_size=1, max_size=600)


@pytest.mark.parametrize(("quantile", "needed"), [(0.90, 44), (0.95, 90), (0.99, 459), (0.999, 4603)])
def test_fewest_samples_are_mlperfs(quantile: float, needed: int) -> None:
    assert fewest_samples(quantile) == needed
    assert percentile([1.0] * (needed - 1), quantile) is None
    assert percentile([1.0] * needed, quantile) == 1.0


@given(samples)
def test_a_percentile_is_an_observed_sample_of_its_rank(values: list[float]) -> None:
    found = percentile(values, 0.9)
    if found is None:
        assert len(values) < 44
    else:
        assert found in values
        assert sum(v <= found for v in values) >= 0.9 * len(values)
        assert sum(v < found for v in values) < 0.9 * len(values)


@given(samples)
def test_the_median_lies_in_its_interval(values: list[float]) -> None:
    interval = median_interval(values)
    assert (interval is None) == (len(values) < 6)
    if interval:
        assert interval[0] <= median(values) <= interval[1]


@pytest.mark.parametrize("n", [6, 8, 9, 20, 101])
def test_the_interval_is_the_widest_that_keeps_the_confidence(n: int) -> None:
    low, high = median_interval(list(map(float, range(1, n + 1)))) or (0, 0)
    k = int(low)
    assert high == n + 1 - k
    assert 1 - 2 * stats.binom.cdf(k - 1, n, 0.5) >= 0.95
    assert k == n // 2 or 1 - 2 * stats.binom.cdf(k, n, 0.5) < 0.95


def test_the_interval_covers_as_promised() -> None:
    generator = np.random.default_rng(0)
    draws = generator.lognormal(size=(4000, 8))
    inside = [low <= 1.0 <= high for low, high in (median_interval(list(row)) or (0, 0) for row in draws)]
    assert np.mean(inside) == pytest.approx(1 - 2 / 2**8, abs=0.006)
