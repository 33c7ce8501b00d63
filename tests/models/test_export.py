from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from dnexport.data.images import input_from_pixels
from dnexport.errors import ParityFailed
from dnexport.models.export import check_logits, compare_graphs, export_onnx, graph_logits, reference_logits
from dnexport.models.zoo import module_from_seed
from dnexport.spec.preprocess import Preprocess
from tests.networks import TINY, TINY_PREPROCESS, tiny_pixels


def test_interface_and_agreement(tiny_graph: Path) -> None:
    model = onnx.load(tiny_graph)
    assert model.opset_import[0].version == 19
    assert model.ir_version <= 10
    (given,), (answer,) = model.graph.input, model.graph.output
    assert (given.name, answer.name) == ("input", "logits")
    assert given.type.tensor_type.shape.dim[0].dim_param
    images = input_from_pixels(tiny_pixels(7, seed=3), TINY_PREPROCESS)
    reference = reference_logits(module_from_seed(TINY, (16, 16), 0), images)
    assert np.abs(graph_logits(tiny_graph, images) - reference).max() <= 1e-4 * np.abs(reference).max()


class Wavering(torch.nn.Module):
    """Answers differently when it is exported."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * (1.001 if torch.compiler.is_exporting() else 1.0)


def test_a_graph_that_is_not_the_module_is_refused(tmp_path: Path) -> None:
    images = input_from_pixels(tiny_pixels(4), TINY_PREPROCESS)
    with pytest.raises(ParityFailed, match="the exported graph differs from PyTorch by"):
        export_onnx(Wavering().eval(), images, tmp_path / "model.onnx")


def test_what_rounding_explains_is_no_difference() -> None:
    """A deep net of random weights can be as far from itself in float64 as the tolerance."""
    reference = np.ones((2, 5), np.float32)
    check_logits("the graph", reference * 1.0003, "PyTorch", reference, lambda: 2e-4)
    with pytest.raises(ParityFailed, match=r"the graph differs from PyTorch by 0\.0003 where"):
        check_logits("the graph", reference * 1.0003, "PyTorch", reference, lambda: 1e-4)


def test_a_rewrite_that_changes_the_answer_is_refused(tiny_graph: Path, tmp_path: Path) -> None:
    model = onnx.load(tiny_graph)
    weight = next(i for i in model.graph.initializer if i.name.endswith("conv1.weight"))
    weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * np.float32(1.001), weight.name))
    onnx.save(model, tmp_path / "changed.onnx")
    images = input_from_pixels(tiny_pixels(4), TINY_PREPROCESS)
    compare_graphs(tiny_graph, tiny_graph, images)
    with pytest.raises(ParityFailed, match="the rewritten graph differs from the exported one by"):
        compare_graphs(tiny_graph, tmp_path / "changed.onnx", images)


def test_grey_pixels_are_exported_with_a_plain_pooling(tmp_path: Path) -> None:
    """One channel has ambiguous strides: those of channels last make a gather of computed indices of the pooling."""
    grey = Preprocess(input_size=(16, 16), resize=None, channels="grey", mean=(0.5,), std=(0.25,))
    images = input_from_pixels(tiny_pixels(3)[..., :1], grey)
    assert images.strides == np.zeros(images.shape, np.float32).strides
    export_onnx(module_from_seed(TINY.model_copy(update={"channels": 1}), (16, 16), 0), images, tmp_path / "grey.onnx")
    operators = {node.op_type for node in onnx.load(tmp_path / "grey.onnx").graph.node}
    assert "ReduceMean" in operators
    assert operators.isdisjoint({"Gather", "Range"})
