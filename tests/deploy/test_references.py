"""Which forms of PyTorch stand beside an engine."""

import dataclasses
import threading
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
from dnexport.runtimes.arrays import available_threads
from dnexport.runtimes.torch_eager import EAGER
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
    assert opened(found) == first == list(dict.fromkeys((str(EAGER), str(found.best("cpu")))))
    assert found.failed == {}


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


def test_one_thread_competes_where_queries_are_short() -> None:
    found = references(Mean, threads=None)
    opened(found)
    assert any(form.single for form in found.tried["cpu"]) == (available_threads() > 1)


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
