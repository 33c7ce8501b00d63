"""ONNX Runtime's CUDA provider where an NVIDIA GPU is. Not yet run on a GPU."""

from pathlib import Path

import numpy as np
import pytest

from dnexport.data.images import input_from_pixels
from dnexport.errors import BadInput
from dnexport.graph.census import census_from_model
from dnexport.graph.contract import apply, model_from_path, save_model
from dnexport.graph.passes_for import passes_for
from dnexport.measure.accuracy import snr_db
from dnexport.models.export import graph_logits
from dnexport.runtimes.contract import BuildOptions, SessionOptions
from dnexport.runtimes.gpu import gpu_names
from dnexport.runtimes.onnxruntime import OnnxRuntime
from dnexport.spec.precision import Execution, Precision
from dnexport.spec.profile import Profile
from dnexport.spec.target import Target
from tests.networks import TINY_PREPROCESS, tiny_pixels

pytestmark = pytest.mark.skipif(not gpu_names(), reason="no NVIDIA GPU is here")

CUDA = Target.parse("onnxruntime:cuda")


@pytest.mark.parametrize(
    ("precision", "execution", "floor_db"),
    [(Precision.FP32, Execution.F32, 80.0), (Precision.FP16, Execution.F16, 40.0)],
)
def test_logits_are_those_of_the_cpu(
    tiny_graph: Path, tmp_path: Path, precision: Precision, execution: Execution, floor_db: float
) -> None:
    found = OnnxRuntime().runs(CUDA)
    if not found.usable:
        pytest.skip(f"{CUDA}: {found.reason}")
    model = model_from_path(tiny_graph)
    apply(passes_for(precision, CUDA), model)
    save_model(model, tmp_path / "lowered.onnx")
    compiled = OnnxRuntime().compile(tmp_path / "lowered.onnx", tmp_path, CUDA, BuildOptions(Profile(), precision))
    session = OnnxRuntime().load(compiled.engine, CUDA, SessionOptions(execution, 1))
    images = input_from_pixels(tiny_pixels(8, seed=5), TINY_PREPROCESS)
    snr = snr_db(graph_logits(tiny_graph, images), session(images))
    assert snr is None or snr > floor_db
    assert session.executed(census_from_model(model).conv_macs).execution is execution
    with pytest.raises(BadInput, match="takes float32"):
        session(np.zeros((1, 16, 16, 3), np.float32))
    session.close()
