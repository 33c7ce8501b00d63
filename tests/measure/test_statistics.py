import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from dnexport.measure.statistics import (
    fewest_samples,
    median,
    paired_drop_interval,
    percentile,
    quantile_interval,
    ratio_interval,
    share_interval,
    t_quantile,
    upper_bound,
)

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
    low, high = quantile_interval(values, 0.5)
    assert (low is None, high is None) == (len(values) < 6,) * 2
    if low is not None and high is not None:
        assert low <= median(values) <= high


@pytest.mark.parametrize("n", [6, 8, 9, 20, 101])
def test_the_interval_is_the_widest_that_keeps_the_confidence(n: int) -> None:
    low, high = quantile_interval(list(map(float, range(1, n + 1))), 0.5)
    k = int(low)
    assert high == n + 1 - k
    assert 1 - 2 * stats.binom.cdf(k - 1, n, 0.5) >= 0.95
    assert k == n // 2 or 1 - 2 * stats.binom.cdf(k, n, 0.5) < 0.95


def test_the_interval_covers_as_promised() -> None:
    generator = np.random.default_rng(0)
    draws = generator.lognormal(size=(4000, 8))
    inside = [low <= 1.0 <= high for low, high in (quantile_interval(list(row), 0.5) for row in draws)]
    assert np.mean(inside) == pytest.approx(1 - 2 / 2**8, abs=0.006)


@pytest.mark.parametrize(("n", "quantile"), [(44, 0.9), (90, 0.9), (500, 0.99), (2000, 0.99), (20, 0.5), (300, 0.99)])
def test_a_quantiles_interval_keeps_the_confidence_and_no_wider_one_is_given(n: int, quantile: float) -> None:
    low, high = quantile_interval([float(i) for i in range(1, n + 1)], quantile)
    assert low is not None
    assert stats.binom.cdf(low - 1, n, quantile) <= 0.025 < stats.binom.cdf(low, n, quantile)
    if high is None:  # not even the largest sample bounds it
        assert stats.binom.sf(n - 1, n, quantile) > 0.025
    else:
        assert stats.binom.sf(high - 1, n, quantile) <= 0.025 < stats.binom.sf(high - 2, n, quantile)


def test_a_quantiles_interval_covers_as_promised() -> None:
    generator, true = np.random.default_rng(1), stats.lognorm(1).ppf(0.9)
    draws = generator.lognormal(size=(2000, 200))
    found = [quantile_interval(list(row), 0.9) for row in draws]
    assert 0.95 <= np.mean([low <= true <= high for low, high in found]) <= 0.975


@given(st.integers(1, 3000), st.data())
def test_a_share_has_wilsons_interval(n: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, n))
    expected = stats.binomtest(count, n).proportion_ci(method="wilson")
    assert share_interval(count, n) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("n", [1, 44, 10_000])
def test_no_discordant_pair_gives_the_closed_form(n: int) -> None:
    """With no change at all the square of the score is n·Δ/(1 − Δ) = z², so Δ = z²/(n + z²)."""
    z2 = stats.norm.ppf(0.975) ** 2
    low, high = paired_drop_interval(0, 0, n)
    assert (low, high) == pytest.approx((-z2 / (n + z2), z2 / (n + z2)), abs=1e-9)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 2000))
def test_the_ends_of_a_drop_are_where_the_score_reaches_its_bound(lost: int, gained: int, rest: int) -> None:
    n = lost + gained + rest
    low, high = paired_drop_interval(lost, gained, n)
    assert -1 <= low <= (lost - gained) / n <= high <= 1
    mirrored = paired_drop_interval(gained, lost, n)
    assert mirrored == pytest.approx((-high, -low), abs=1e-9)
    for drop in (low, high):
        shares = np.linspace(max(0.0, -drop), (1 - drop) / 2 - 1e-9, 4001)  # of gains where the drop is fixed
        likelihood = lost * np.log(shares + drop + 1e-300) + gained * np.log(shares + 1e-300)
        q = shares[(likelihood + rest * np.log(1 - 2 * shares - drop)).argmax()]
        variance = n * (2 * q + drop * (1 - drop))
        assert abs(lost - gained - n * drop) / np.sqrt(variance) == pytest.approx(stats.norm.ppf(0.975), rel=0.02)


def test_a_drops_interval_covers_as_promised() -> None:
    generator = np.random.default_rng(2)
    n, true = 1000, 0.004
    draws = generator.multinomial(n, [0.007, 0.003, 0.99], size=4000)
    covered = [low <= true <= high for low, high in (paired_drop_interval(int(a), int(b), n) for a, b, _ in draws)]
    assert 0.94 <= np.mean(covered) <= 0.965


@pytest.mark.parametrize(("quantile", "n"), [(0.9, 44), (0.9, 500), (0.99, 459), (0.99, 3000)])
def test_an_upper_bound_is_mlperfs_early_stopping(quantile: float, n: int) -> None:
    """The t - 1 largest are set aside, t the largest with P(fewer than t of n lie above the quantile) <= 1 %."""
    t = max(t for t in range(1, n) if stats.binom.cdf(t - 1, n, 1 - quantile) <= 0.01 + 1e-12)
    assert upper_bound([float(i) for i in range(1, n + 1)], quantile) == n - t + 1
    assert upper_bound([1.0] * (fewest_samples(quantile) - 1), quantile) is None


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 9, 30])
def test_students_quantile_is_scipys(degrees: int, confidence: float) -> None:
    assert t_quantile(degrees, confidence) == pytest.approx(stats.t.ppf((1 + confidence) / 2, degrees), rel=1e-9)


def test_a_ratios_interval_is_students_over_the_sets_logarithms() -> None:
    starts = [(1.9, 2.1), (2.2, 2.0, 9.0), (1.8,)]
    value, low, high = ratio_interval(starts)
    logs = np.log([2.0, 2.2, 1.8])
    expected = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
    assert (value, low, high) == pytest.approx((np.exp(logs.mean()), *np.exp(expected)))
    assert ratio_interval([(2.0, 3.0, 4.0)]) == (pytest.approx(3.0), None, None)
    assert ratio_interval([(2.0,), (2.0,)]) == (pytest.approx(2.0),) * 3


@pytest.mark.parametrize(("between", "within"), [(0.03, 0.0), (0.01, 0.05), (0.0, 0.05)])
def test_a_ratios_interval_covers_as_promised_whether_sets_or_rounds_differ(between: float, within: float) -> None:
    """Rounds of one set alone would cover what differs between sets in a few cases of a hundred."""
    generator = np.random.default_rng(0)
    inside = []
    for _ in range(2000):
        starts = np.exp(between * generator.normal(size=(5, 1)) + within * generator.normal(size=(5, 2)))
        _, low, high = ratio_interval([tuple(map(float, rounds)) for rounds in starts])
        inside.append(low <= 1 <= high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.012)
