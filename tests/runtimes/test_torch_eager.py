import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from dnexport.data.images import input_from_pixels
from dnexport.errors import TargetUnavailable
from dnexport.measure.accuracy import snr_db
from dnexport.models.export import reference_logits
from dnexport.models.zoo import module_from_seed
from dnexport.runtimes.contract import SessionOptions
from dnexport.runtimes.gpu import gpu_names
from dnexport.runtimes.isolate import Worker
from dnexport.runtimes.torch_eager import EAGER, Form, Torch, TorchSession, cuda_usable, forms_on
from dnexport.spec.precision import Execution
from dnexport.spec.target import Target
from tests.networks import TINY, TINY_PREPROCESS, tiny_pixels


@pytest.mark.parametrize(("form", "floor"), list(zip(forms_on("cpu"), [120, 100, 20], strict=True)), ids=str)
def test_forms_answer_alike(form: Form, floor: float) -> None:
    factory = functools.partial(module_from_seed, TINY, (16, 16), 0)
    images = input_from_pixels(tiny_pixels(8, seed=2), TINY_PREPROCESS)
    session = TorchSession(factory, form, 1)
    snr = snr_db(reference_logits(factory(), images), session(images))
    assert snr is None or snr > floor
    assert session.executed({}).execution is (Execution.BF16 if form.dtype == "bf16" else Execution.F32)


def test_forms_are_named_as_people_name_them() -> None:
    assert [str(form) for form in forms_on("cpu")] == ["eager fp32", "channels-last fp32", "channels-last bf16"]
    assert str(forms_on("cuda")[0]) == "eager fp32 on CUDA"
    assert str(Form(layout="channels-last", dtype="fp16", compiled=True, device="cuda")) == "compiled fp16 on CUDA"
    assert str(Form(single=True)) == "eager fp32, one thread"
    assert forms_on("cpu")[0] == EAGER


def test_one_thread_is_one_thread() -> None:
    """In a process of its own: PyTorch's pool is the process's, also where sessions answer in turn."""
    with Worker("counting threads") as worker:
        assert worker.call(_threads, [Form(single=True), Form()]) == [1, 2, 1, 2]


def _threads(forms: list[Form]) -> list[int]:
    sessions = [TorchSession(functools.partial(module_from_seed, TINY, (16, 16), 0), form, 2) for form in forms]
    seen = []
    for session in sessions * 2:
        session(np.zeros((1, 3, 16, 16), np.float32))
        seen.append(torch.get_num_threads())
    return seen


@pytest.mark.skipif(bool(gpu_names()), reason="a GPU is here")
def test_there_is_no_gpu_to_stand_beside() -> None:
    assert not cuda_usable()


def test_it_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match="target torch has no engine file"):
        Torch().load(tmp_path, Target.parse("torch"), SessionOptions(Execution.F32, 1))
