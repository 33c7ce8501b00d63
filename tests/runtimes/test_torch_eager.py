import functools
from pathlib import Path

import pytest

from dnexport.data.images import input_from_pixels
from dnexport.errors import TargetUnavailable
from dnexport.measure.accuracy import snr_db
from dnexport.models.export import reference_logits
from dnexport.models.zoo import module_from_seed
from dnexport.runtimes.contract import SessionOptions
from dnexport.runtimes.torch_eager import EAGER, FORMS, Torch, TorchSession
from dnexport.spec.precision import Execution
from dnexport.spec.target import Target
from tests.networks import TINY, TINY_PREPROCESS, tiny_pixels


@pytest.mark.parametrize(("form", "floor"), [(EAGER, 120), ("channels-last fp32", 100), ("channels-last bf16", 20)])
def test_forms_answer_alike(form: str, floor: float) -> None:
    factory = functools.partial(module_from_seed, TINY, (16, 16), 0)
    images = input_from_pixels(tiny_pixels(8, seed=2), TINY_PREPROCESS)
    session = TorchSession(factory, form, 1)
    snr = snr_db(reference_logits(factory(), images), session(images))
    assert snr is None or snr > floor
    assert session.executed({}).execution is (Execution.BF16 if "bf16" in form else Execution.F32)
    assert form in FORMS


def test_it_is_no_engine(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable, match="target torch has no engine file"):
        Torch().load(tmp_path, Target.parse("torch"), SessionOptions(Execution.F32, 1))
