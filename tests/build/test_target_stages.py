"""A plan that cannot run here ships only if its lowered graph is the network."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from dnexport.build.pipeline import build
from dnexport.errors import ParityFailed
from dnexport.graph.cast_float16 import CastFloat16
from dnexport.graph.contract import PassResult
from dnexport.spec.progress import Silent
from dnexport.spec.recipe import Recipe
from tests.needs import needs


class Miscast(CastFloat16):
    """A lowering with a defect: one weight comes out wrong."""

    def __call__(self, model: ir.Model) -> PassResult:
        result = super().__call__(model)
        value = model.graph.initializers["classifier.weight"]
        value.const_value = ir.tensor(np.zeros(value.shape.numpy(), np.float16), name=value.name)
        return result


@needs("tensorrt-rtx")
def test_a_miscast_graph_is_not_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = "densenet(blocks=2-2,k=8,stem=cifar,init=8,classes=10)"
    recipe = Recipe(name="r", arch=arch, weights="random", precision="fp16", targets=("tensorrt-rtx:sm86",))
    good = build(recipe, tmp_path / "good", Silent(), bench=False)
    assert good.bundle.reports["tensorrt-rtx:sm86"].graph_accuracy.snr_db > 35
    monkeypatch.setattr("dnexport.graph.passes_for.CastFloat16", Miscast)
    with pytest.raises(
        ParityFailed, match=r"the lowered graph of tensorrt-rtx:sm86 answers at .* where at least 8 dB are expected"
    ):
        build(recipe, tmp_path / "other" / "bad", Silent(), bench=False)
    assert not (tmp_path / "other" / "bad").exists()
