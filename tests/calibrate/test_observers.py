import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnexport.calibrate.observers import BINS, Histogram, MinMax, narrowed
from dnexport.errors import DataError
from dnexport.spec.quantization import CalibrationSet, ObserverName, Range

HALF_NORMAL = np.abs(np.random.default_rng(0).standard_normal(200_000)).astype(np.float32)
LONG_TAILED = np.concatenate([HALF_NORMAL, np.full(3, 60, np.float32)])


def histogram(values: np.ndarray) -> Histogram:
    found = Histogram(Range(lo=float(values.min()), hi=float(values.max())))
    found.update(values)
    return found


def observed(values: np.ndarray, observer: ObserverName, percentile: float = 99.99) -> Range:
    return narrowed(histogram(values), CalibrationSet(observer=observer, percentile=percentile))


def mean_squared_error(values: np.ndarray, threshold: float) -> float:
    scale = threshold / 127
    return float(((np.clip(np.round(values / scale), -128, 127) * scale - values) ** 2).mean())


@pytest.mark.parametrize("percentile", [99.0, 99.9, 99.99])
def test_percentile_is_numpys_within_a_bin(percentile: float) -> None:
    found = observed(HALF_NORMAL, "percentile", percentile)
    assert found.lo == HALF_NORMAL.min()
    assert found.hi == pytest.approx(np.percentile(HALF_NORMAL, percentile), abs=2 * float(HALF_NORMAL.max()) / BINS)
    both = observed(np.concatenate([HALF_NORMAL, -HALF_NORMAL]), "percentile", percentile)
    assert both.hi == pytest.approx(np.percentile(HALF_NORMAL, percentile), abs=4 * float(HALF_NORMAL.max()) / BINS)
    assert both.lo == pytest.approx(-both.hi, abs=4 * float(HALF_NORMAL.max()) / BINS)


def test_mse_is_near_the_best_threshold_of_a_fine_search() -> None:
    best = min(mean_squared_error(LONG_TAILED, t) for t in np.linspace(1, 60, 600))
    found = observed(LONG_TAILED, "mse")
    assert found.hi < 60
    assert mean_squared_error(LONG_TAILED, found.hi) < 1.1 * best


def test_zeros_do_not_drown_the_rest() -> None:
    sparse = np.concatenate([HALF_NORMAL, np.zeros(9 * len(HALF_NORMAL), np.float32)])
    assert observed(sparse, "entropy").hi == pytest.approx(observed(HALF_NORMAL, "entropy").hi, rel=0.05)
    assert observed(sparse, "entropy").hi > 2.5


def test_entropy_cuts_a_long_tail_and_keeps_a_uniform() -> None:
    assert observed(LONG_TAILED, "entropy").hi < 20
    uniform = np.random.default_rng(1).uniform(0, 5, 200_000).astype(np.float32)
    assert observed(uniform, "entropy").hi > 4.8


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60),
    st.sampled_from(["percentile", "entropy", "mse"]),
    st.integers(1, 7),
)
def test_any_values_give_a_range_inside_of_theirs_whatever_the_batches(
    values: list[float], observer: ObserverName, pieces: int
) -> None:
    array = np.array(values, np.float32)
    whole = histogram(array)
    parts = Histogram(whole.seen)
    for part in np.array_split(array[::-1], pieces):
        parts.update(part)
    assert np.array_equal(whole.counts, parts.counts)
    found = narrowed(whole, CalibrationSet(observer=observer))
    assert whole.seen.lo <= found.lo <= found.hi <= whole.seen.hi
    assert found.scale > 0


def test_minmax_remembers_how_the_scale_grew() -> None:
    seen = MinMax()
    seen.update(np.array([0, -1], np.float32), np.array([2, 1], np.float32))
    seen.update(np.array([-5], np.float32), np.array([1], np.float32))
    assert seen.range("x") == Range(lo=-5, hi=2)
    assert [127 * seen.scale_after(images) for images in (1, 2, 3)] == pytest.approx([2, 2, 5])


def test_minmax_does_not_grow_with_the_images() -> None:
    seen = MinMax()
    values = np.random.default_rng(0).normal(size=20_000).astype(np.float32)
    seen.update(-np.abs(values), np.abs(values))
    assert len(pickle.dumps(seen)) < 1000
    for images in (1, 7, 500, 20_000):
        assert 127 * seen.scale_after(images) == pytest.approx(np.abs(values[:images]).max())


def test_nan_activations_are_refused() -> None:
    seen = MinMax()
    seen.update(np.array([0, np.nan], np.float32), np.array([1, 2], np.float32))
    seen.update(np.array([0], np.float32), np.array([1], np.float32))
    with pytest.raises(DataError, match="activation 'relu' is not finite on the calibration images"):
        seen.range("relu")


def test_an_observer_that_saw_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        MinMax().range("x")
