"""Sessions beside the one that is measured do not slow it, although their threads spin."""

import contextlib
import functools
import os
from collections.abc import Iterator

import numpy as np
import pytest

from dnexport.measure.latency import Blocks, Probe, alternate, ratio_from_blocks, warmed_up
from dnexport.runtimes.isolate import Worker
from dnexport.spec.latency import Ratio

pytestmark = pytest.mark.alone
IMAGES = np.random.default_rng(0).standard_normal((4, 256, 24, 24), np.float32)
SPINNING = {"OMP_WAIT_POLICY": "active"}


class Convolution:
    """PyTorch on two threads, in the way in which its users run it."""

    def __init__(self) -> None:
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(2)
        self._torch, self._layer = torch, torch.nn.Conv2d(256, 64, 3)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            return self._layer(self._torch.from_numpy(images)).numpy()

    def phases(self) -> None:
        """None."""


@pytest.fixture(autouse=True)
def _two_processors() -> Iterator[None]:
    """What every machine that runs these tests has: neighbours cannot get out of each other's way."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:2])
    yield
    os.sched_setaffinity(0, before)


def opened(stack: contextlib.ExitStack, *, parked: bool, env: dict[str, str] | None = None) -> Worker:
    worker = stack.enter_context(Worker("convolving", env=env, parked=parked))
    worker.create(Probe, Convolution, IMAGES)
    return worker


def slowdown(*, parked: bool) -> Ratio:
    """How much longer a query takes between the blocks of two sessions that spin than in a process without them."""
    sets: list[tuple[Blocks, Blocks]] = []
    for start in range(3):
        with contextlib.ExitStack() as stack:
            measured = opened(stack, parked=True)
            warm = [warmed_up(measured, 1, 0.05)]
            measure = functools.partial(alternate, batch=1, block_s=0.05, enough=lambda rounds, _: rounds == 3)
            alone = [measure([measured], warm)[0]] if start % 2 else []
            with contextlib.ExitStack() as neighbours:
                beside = [opened(neighbours, parked=parked, env=SPINNING) for _ in range(2)]
                for each in beside:
                    warmed_up(each, 1, 0.02)
                between = measure([measured, *beside], warm * 3)[0]
            alone = alone or [measure([measured], warm)[0]]
        sets.append((between, alone[0]))
    return ratio_from_blocks(*zip(*sets, strict=True))


def test_parked_neighbours_cost_nothing() -> None:
    ratio = slowdown(parked=True)
    assert ratio.low is not None
    assert ratio.low <= 1 <= ratio.high or 0.95 <= ratio.value <= 1.05, ratio


def test_neighbours_that_spin_unparked_are_seen() -> None:
    """The same measurement without parking: the check above can fail."""
    assert slowdown(parked=False).value > 1.2
