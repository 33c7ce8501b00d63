import functools
import time

import numpy as np
import pytest

from dnexport.measure.environment import environment
from dnexport.measure.latency import LEAST_QUERIES, Blocks, Probe, alternate, ratio_from_blocks
from dnexport.runtimes.isolate import Worker

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


def worker(milliseconds: float) -> Worker:
    made = Worker("sleeping")
    made.create(Probe, functools.partial(Sleeper, milliseconds), IMAGES)
    return made


def test_a_known_ratio_is_found() -> None:
    workers = [worker(4.0), worker(2.0)]
    ticks: list[tuple[int, int]] = []
    try:
        slow, fast = alternate(
            workers, rounds=6, batch=2, block_s=0.03, tick=lambda done, total: ticks.append((done, total))
        )
    finally:
        for each in workers:
            each.close()
    ratio = ratio_from_blocks(slow, fast)
    assert ratio.value == pytest.approx(2, rel=0.1)
    assert ratio.low is not None
    assert ratio.low <= ratio.value <= ratio.high
    assert ticks[-1] == (6, 6)
    latency = fast.latency(batch=2, threads=1)
    assert latency.p50_ms == pytest.approx(2, rel=0.1)
    assert latency.images_per_second == pytest.approx(1000, rel=0.15)
    assert latency.p99_ms is None
    assert all(len(block) >= LEAST_QUERIES for block in fast.rounds)
    assert fast.warm_up_queries >= 2 * LEAST_QUERIES


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
    assert probe.warm_up(1, 0.0) >= least * LEAST_QUERIES


def test_warm_up_is_bounded() -> None:
    class Drifter(Sleeper):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            self._milliseconds *= 1.05
            return super().__call__(images)

    probe = Probe(functools.partial(Drifter, 0.2), IMAGES)
    assert probe.warm_up(1, 0.0) == 6 * LEAST_QUERIES


def test_no_outlier_is_removed() -> None:
    blocks = Blocks(((1.0,) * 99 + (1000.0,),), 0)
    latency = blocks.latency(batch=1, threads=1)
    assert max(latency.samples_ms) == 1000
    assert latency.images_per_second == pytest.approx(100 / 1.099)


def test_images_are_taken_in_turn() -> None:
    probe = Probe(functools.partial(Sleeper, 0), IMAGES)
    seen = [probe._query(2)[:, 0, 0, 0].tolist() for _ in range(3)]
    assert seen == [[0.0, 4.0], [8.0, 12.0], [0.0, 4.0]]
    assert [len(part) for part in probe.logits(IMAGES, 2)] == [2, 2, 1]


def test_too_few_rounds_have_no_interval() -> None:
    ratio = ratio_from_blocks(Blocks(((2.0,),) * 5, 0), Blocks(((1.0,),) * 5, 0))
    assert (ratio.value, ratio.low, ratio.high) == (2.0, None, None)


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
