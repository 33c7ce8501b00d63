"""Which forms of PyTorch stand beside an engine."""

import dataclasses
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dnexport.deploy.engine import Engine
from dnexport.deploy.references import References
from dnexport.errors import BuildFailed
from dnexport.measure.latency import LEAST_QUERIES, Probe
from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.torch_eager import EAGER, forms_on
from dnexport.spec.precision import Precision
from dnexport.spec.recipe import Bench
from dnexport.spec.target import Target

IMAGES = np.zeros((4, 3, 8, 8), np.float32)


class Mean(torch.nn.Module):
    """A network whose queries are short."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(dim=(2, 3))


class NoHalf(Mean):
    """It computes in FP32 only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.float32:
            raise TypeError("FP32 only")
        return super().forward(x)


class Broken(Mean):
    """It computes nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise TypeError("nothing goes")


def references(factory: Callable[[], Any] | None, threads: int | None = 1, *scenarios: str) -> References:
    engine = Engine(Target.parse("onnxruntime:cpu"), Path("engine"), Precision.FP32)
    return References(factory, IMAGES, Bench(block_s=0.01, threads=threads, scenarios=scenarios), [engine])


def opened(found: References) -> list[str]:
    with ExitStack() as stack:
        sessions = found.opened(stack)
        assert all(len(before.last_ms) >= 6 for _, before in sessions.values())
        return list(sessions)


def test_the_best_form_is_kept_beside_eager() -> None:
    found = references(Mean)
    assert found.kept("cpu") == []
    first = opened(found)
    times = found.tried["cpu"]
    assert {str(form) for form in times} == {"eager fp32", "channels-last fp32", "channels-last bf16"}
    assert times[found.best("cpu")] == min(times.values())
    assert opened(found) == first == [str(form) for form in found.kept("cpu")]
    assert found.failed == {}


def test_eager_and_the_three_fastest_are_measured_in_full() -> None:
    found = references(Mean)
    forms = forms_on("cpu", single=True)
    found.tried["cpu"] |= {form: float(ms) for form, ms in zip(forms, (9, 5, 8, 4, 7, 6), strict=True)}
    fastest = [dataclasses.replace(EAGER, single=True), forms[1], dataclasses.replace(forms[2], single=True)]
    assert found.kept("cpu") == [EAGER, *fastest]
    found.tried["cpu"][EAGER] = 1.0
    assert found.kept("cpu") == [EAGER, *fastest[:2]]


def test_a_hopeless_form_is_queried_no_more_than_twice() -> None:
    queries = []

    class Slow:
        def __call__(self, images: np.ndarray) -> np.ndarray:
            queries.append(len(images))
            time.sleep(0.02)
            return images.reshape(len(images), -1)

    probe = Probe(Slow, IMAGES)
    assert probe.screened(2, 10.0) > 15
    assert queries == [2, 2, 2], "one slow query may be a disturbance"
    assert probe.screened(2, 1000.0) > 15
    assert queries == [2] * (3 + 1 + LEAST_QUERIES)


def test_a_form_that_fails_takes_no_part() -> None:
    found = references(NoHalf)
    assert opened(found)[0] == "eager fp32"
    assert {str(form) for form in found.tried["cpu"]} == {"eager fp32", "channels-last fp32"}
    ((form, why),) = found.failed.items()
    assert str(form) == "channels-last bf16"
    assert "FP32 only" in why


def test_without_eager_there_is_nothing_to_compare_with() -> None:
    with pytest.raises(BuildFailed, match=r"measuring PyTorch failed: TypeError: nothing goes"):
        opened(references(Broken))


def test_every_form_competes_on_one_thread_and_on_all() -> None:
    found = references(Mean, threads=None)
    opened(found)
    forms = found.tried["cpu"]
    several = {dataclasses.replace(form, single=False) for form in forms}
    assert set(forms) - several == (
        {dataclasses.replace(f, single=True) for f in several} if available_threads() > 1 else set()
    )


def test_a_sweep_has_all_threads_beside_it() -> None:
    """The best form of short queries may be on one thread; larger batches would make that a weak reference."""
    found = references(Mean, 1, "offline")
    assert found.swept("cpu") == []
    single = dataclasses.replace(EAGER, single=True)
    found.tried["cpu"] |= {EAGER: 2.0, single: 1.0}
    assert found.swept("cpu") == [single, EAGER]
    found.tried["cpu"] = {EAGER: 1.0, single: 2.0}
    assert found.swept("cpu") == [EAGER]
    other = references(Mean)
    other.tried["cpu"] = found.tried["cpu"]
    assert other.swept("cpu") == []


class Uncopyable(Mean):
    """It holds what cannot be copied."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


def test_a_module_that_cannot_be_copied_is_made_anew() -> None:
    assert opened(references(Uncopyable))[0] == "eager fp32"


def test_without_pytorch_there_is_none() -> None:
    found = references(None)
    assert opened(found) == found.kept("cpu") == []
