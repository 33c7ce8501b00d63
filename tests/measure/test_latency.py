import functools
import time

import numpy as np
import pytest

from dnexport.measure.environment import environment
from dnexport.measure.latency import (
    LEAST_QUERIES,
    Block,
    Blocks,
    Probe,
    WarmUp,
    alternate,
    device_times_from_blocks,
    disagreement,
    latency_from_blocks,
    millijoules_per_image,
    ratio_alone,
    ratio_from_blocks,
    warmed_up,
)
from dnexport.runtimes.contract import Phases
from dnexport.runtimes.isolate import Worker

pytestmark = pytest.mark.alone
IMAGES = np.arange(5 * 4, dtype=np.float32).reshape(5, 1, 2, 2)


class Sleeper:
    """A session that takes a known time and remembers nothing."""

    def __init__(self, milliseconds: float) -> None:
        self._milliseconds = milliseconds

    def __call__(self, images: np.ndarray) -> np.ndarray:
        end = time.perf_counter() + self._milliseconds / 1e3
        while time.perf_counter() < end:
            pass
        return images.reshape(len(images), -1)

    def phases(self) -> None:
        """None."""


def worker(milliseconds: float) -> Worker:
    made = Worker("sleeping")
    made.create(Probe, functools.partial(Sleeper, milliseconds), IMAGES)
    return made


def test_a_known_ratio_is_found() -> None:
    sets = []
    for _ in range(3):
        with worker(4.0) as one, worker(2.0) as two:
            warm = [warmed_up(each, 2, 0.03) for each in (one, two)]
            sets.append(alternate([one, two], warm, batch=2, block_s=0.03, enough=lambda rounds, _: rounds == 2))
    slow, fast = ([blocks[index] for blocks in sets] for index in (0, 1))
    ratio = ratio_from_blocks(slow, fast)
    assert ratio.value == pytest.approx(2, rel=0.1)
    assert ratio.low is not None
    assert ratio.low <= ratio.value <= ratio.high
    assert [len(rounds) for rounds in ratio.starts] == [2, 2, 2]
    assert ratio_alone(slow, fast).value == pytest.approx(2, rel=0.1)
    latency = latency_from_blocks(fast, batch=2, threads=1)
    assert latency.p50_ms == pytest.approx(2, rel=0.1)
    assert latency.images_per_second == pytest.approx(1000, rel=0.15)
    assert latency.p99_ms is None
    assert all(len(block.times_ms) >= LEAST_QUERIES for each in fast for block in each.rounds)
    assert all(each.warm_up.queries >= 2 * LEAST_QUERIES for each in fast)


class Learner(Sleeper):
    """A session that is slow at first."""

    def __init__(self, slow_queries: int) -> None:
        super().__init__(4.0)
        self._slow_queries = slow_queries

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self._slow_queries -= 1
        self._milliseconds = 4.0 if self._slow_queries > 0 else 1.0
        return super().__call__(images)


@pytest.mark.parametrize(("slow_queries", "least"), [(0, 2), (LEAST_QUERIES + 3, 3)])
def test_warm_up_goes_on_until_two_blocks_agree(slow_queries: int, least: int) -> None:
    probe = Probe(functools.partial(Learner, slow_queries), IMAGES)
    warm_up = probe.warm_up(1, 0.0)
    assert warm_up.queries >= least * LEAST_QUERIES
    assert warm_up.steady


def test_warm_up_is_bounded() -> None:
    class Drifter(Sleeper):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            self._milliseconds *= 1.05
            return super().__call__(images)

    probe = Probe(functools.partial(Drifter, 0.2), IMAGES)
    warm_up = probe.warm_up(1, 0.0)
    assert (warm_up.queries, warm_up.steady) == (6 * LEAST_QUERIES, False)


def test_no_outlier_is_removed() -> None:
    blocks = Blocks((Block((1.0,) * 99 + (1000.0,)),))
    latency = latency_from_blocks([blocks], batch=1, threads=1)
    assert max(latency.samples_ms) == 1000
    assert latency.images_per_second == pytest.approx(100 / 1.099)


def test_images_are_taken_in_turn() -> None:
    probe = Probe(functools.partial(Sleeper, 0), IMAGES)
    seen = [probe._query(2)[:, 0, 0, 0].tolist() for _ in range(3)]
    assert seen == [[0.0, 4.0], [8.0, 12.0], [0.0, 4.0]]
    assert [len(part) for part in probe.logits(IMAGES, 2)] == [2, 2, 1]


def blocks(*medians: float, alone: float = 1.0) -> Blocks:
    return Blocks(tuple(Block((float(each),)) for each in medians), WarmUp(1, (alone,), True))


def test_one_set_of_processes_has_no_interval() -> None:
    ratio = ratio_from_blocks([blocks(2, 2, 2)], [blocks(1, 1, 1)])
    assert (ratio.value, ratio.low, ratio.high) == (pytest.approx(2), None, None)


def test_what_alternation_changes_is_found_unless_the_sets_differ_as_much() -> None:
    def apart(alone: list[float]) -> float | None:
        reference = [blocks(2, alone=each) for each in alone]
        engine = [blocks(1)] * len(alone)
        return disagreement(ratio_alone(reference, engine), ratio_from_blocks(reference, engine))

    assert apart([2.2, 2.21, 2.19]) == pytest.approx(0.1, abs=0.002)
    assert apart([1.8, 1.81, 1.79]) == pytest.approx(0.111, abs=0.002)
    assert apart([2.08, 2.081, 2.079]) is None, "less than five percent"
    assert apart([1.5, 2.0, 3.0]) is None, "noise"
    assert apart([2.2]) == pytest.approx(0.1), "one set has no noise to tell"


def test_the_devices_events_are_summed_up_and_so_is_its_energy() -> None:
    phases = [Phases(0.1, 0.2, compute, 0.3) for compute in (1.0, 2.0, 6.0)]
    sets = [Blocks((Block((2.0, 3.0), tuple(phases[:2]), 30.0), Block((7.0,), (phases[2],), 12.0)))]
    found = device_times_from_blocks(sets)
    assert found is not None
    assert (found.enqueue_ms, found.h2d_ms, found.compute_ms, found.d2h_ms) == (0.1, 0.2, 2.0, 0.3)
    assert found.compute_samples_ms == (1.0, 2.0, 6.0)
    assert found.compute_p99_ms is None
    assert millijoules_per_image(sets, 2) == pytest.approx(42 / 6)
    assert device_times_from_blocks([blocks(1)]) is None
    assert millijoules_per_image([blocks(1)], 1) is None


def test_the_harness_costs_less_than_a_hundredth_at_a_millisecond() -> None:
    probe = Probe(functools.partial(Sleeper, 1.0), IMAGES)
    assert float(np.median(probe.block(1, 0.3).times_ms)) == pytest.approx(1.0, rel=0.01)
    assert (probe.peak_memory() or 1e9) > 1e7


def test_the_environment_is_this_machine() -> None:
    here = environment()
    assert here.cores >= 1
    assert here.versions["numpy"] == np.__version__
    assert here.cpu


class AtLeastFour:
    """A session that refuses fewer than four images, as a plan does whose profile begins there."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        assert len(images) >= 4
        return images.reshape(len(images), -1).astype(np.float32)


def test_a_rest_below_the_smallest_batch_is_filled_up_and_cut() -> None:
    images = np.arange(10 * 3 * 2 * 2, dtype=np.float32).reshape(10, 3, 2, 2)
    parts = Probe(AtLeastFour).logits(images, 8, 4)
    assert [len(part) for part in parts] == [8, 2]
    assert np.array_equal(np.concatenate(parts), images.reshape(10, -1))
